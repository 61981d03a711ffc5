"""From bytes to plain data: YAML and JSON, with the places of things, safely.

Whatever the bytes are, the answer is data or a ``ConfigError``. Nothing is built from tags, aliases can't multiply without
bound, and depth and size are limited before they can hurt.

YAML is read by its 1.2 core schema: only ``true`` and ``false`` are booleans (``on``, ``off``, ``yes`` and ``no`` are
strings), there are no dates and no base-60 numbers, and ``010`` is ten. Merge keys (``<<``) work.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from backends.errors import ConfigError, Problem

Path = tuple[str | int, ...]
Place = tuple[int, int]  # line and column, both from 1
Finding = tuple[Path, str, Place]
Event = tuple[str, Any, str | None, int, int]  # kind, value, anchor, line, column; `_yaml_events` lists the kinds

MAX_BYTES = 16 * 1024 * 1024
MAX_VALUES = 1_000_000  # counted as if every alias were written out
MAX_TEXT = 64 * 1024 * 1024  # characters, counted the same way
MAX_DEPTH = 100

_TOO_DEEP = f"more than {MAX_DEPTH} levels deep; make it flatter"
_TOO_LONG = "a number of more than 4000 digits; put it in quotes"

_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z|[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z")
_TAG = "tag:yaml.org,2002:"
_SURROGATE = re.compile("[\ud800-\udfff]")


class _Bad(Exception):
    """A document that can't be read any further."""

    def __init__(self, message: str, place: Place | None = None) -> None:
        self.place = place
        super().__init__(message)


class _Oddity:
    """Stands for a value that can't be used, until it is reported and dropped."""

    def __init__(self, message: str) -> None:
        self.message = message


class Document:
    """One config as plain data.

    Args:
        data: mappings, lists, strings, numbers, booleans and None; aliased parts are shared, so copy before changing.
        origin: how the user knows it, such as ``cfg.yaml``.
        found: what was wrong but didn't stop the reading: path, message and place of each.
        text: the document itself.
        is_json: whether it was read as JSON.
    """

    __slots__ = ("data", "found", "is_json", "origin", "text")

    def __init__(self, data: dict[str, Any], origin: str, found: list[Finding], text: str, is_json: bool) -> None:
        self.data = data
        self.origin = origin
        self.found = found
        self.text = text
        self.is_json = is_json

    def places(self, paths: Iterable[Path]) -> dict[Path, Place]:
        """Return line and column of each path, or of its nearest ancestor that is written in the document.

        Args:
            paths: keys and list positions from the top, such as ``("steps", "train", "inputs", "table")``.
        """
        paths = list(paths)
        wanted = {path[:length]: (0, 0) for path in paths for length in range(len(path) + 1)}
        _Builder(wanted).build(_events(self.text, self.is_json))
        for path in sorted(wanted, key=len):
            if wanted[path] == (0, 0):
                wanted[path] = wanted[path[:-1]] if path else (1, 1)
        return {path: wanted[path] for path in paths}


def _scalar(text: str) -> object:
    """Return a plain YAML scalar's value by the 1.2 core schema."""
    if text in _NULL:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text[0] in "+-.0123456789":
        if _INT.match(text):
            if len(text) > 4000:
                return _Oddity(_TOO_LONG)
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        if _FLOAT.match(text):
            return _finite(float(text)) if text[-1].isdigit() or text[-1] == "." else _finite(float("nan"))
    return text


def _finite(number: float) -> object:
    if number - number == 0:
        return number
    return _Oddity("infinite and undefined numbers have no JSON form; put it in quotes if it is meant as text")


def _text(text: str) -> object:
    """Return a string that a program's argument and a UTF-8 file can hold, or the oddity it is."""
    if "\0" in text:
        return _Oddity("the text has a NUL character, which no argument or variable can hold; remove it")
    if not text.isascii() and _SURROGATE.search(text):
        return _Oddity("the text has half a surrogate pair, which is not valid Unicode; write both halves")
    return text


def _tagged(tag: str, text: str) -> object:
    """Return the value of a scalar with an explicit tag."""
    if tag in ("!", _TAG + "str"):
        return _text(text)
    kinds: dict[str, Any] = {"null": type(None), "bool": bool, "int": int, "float": (int, float)}
    kind = tag.removeprefix(_TAG)
    if not tag.startswith(_TAG) or kind not in kinds:
        return _unknown_tag(tag)
    value: Any = _scalar(text)
    if isinstance(value, _Oddity):
        return value
    if not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "bool"):
        return _Oddity(f"this is not what its tag !!{kind} says; remove the tag")
    return float(value) if kind == "float" else value


def _unknown_tag(tag: str) -> _Oddity:
    shown = "!!" + tag.removeprefix(_TAG) if tag.startswith(_TAG) else tag
    return _Oddity(f"the tag {shown[:80]} is not supported; a config is plain data, so remove the tag")


def _yaml_events(text: str) -> Iterator[Event]:
    """Yield the events of a YAML document: ``[`` ``]`` ``{`` ``}``, ``v`` a value, ``m`` the plain ``<<``, ``*`` an alias."""
    import yaml

    try:
        from yaml._yaml import CParser as Parser
    except ImportError:  # PyYAML built without libyaml: slower, the same events

        class Parser(yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser):  # type: ignore[no-redef]
            def __init__(self, stream: str) -> None:
                yaml.reader.Reader.__init__(self, stream)
                yaml.scanner.Scanner.__init__(self)
                yaml.parser.Parser.__init__(self)

    begun = False
    try:
        get: Any = Parser(text).get_event
        while (event := get()) is not None:
            kind = type(event)
            if kind is yaml.ScalarEvent:
                plain, quoted = event.implicit
                if plain:
                    value = _scalar(event.value)
                elif quoted:
                    value = _text(event.value)
                else:
                    value = _tagged(event.tag, event.value)
                mark = event.start_mark
                yield ("m" if plain and event.value == "<<" else "v"), value, event.anchor, mark.line + 1, mark.column + 1
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                letter, name = ("{", "map") if kind is yaml.MappingStartEvent else ("[", "seq")
                odd = None if event.tag in (None, "!", _TAG + name) else _unknown_tag(event.tag)
                yield letter, odd, event.anchor, event.start_mark.line + 1, event.start_mark.column + 1
            elif kind is yaml.MappingEndEvent:
                yield "}", None, None, 0, 0
            elif kind is yaml.SequenceEndEvent:
                yield "]", None, None, 0, 0
            elif kind is yaml.AliasEvent:
                yield "*", None, event.anchor, event.start_mark.line + 1, event.start_mark.column + 1
            elif kind is yaml.DocumentStartEvent:
                if begun:
                    raise _Bad(
                        "a second document starts here; a config is one document, so remove the '---'",
                        (event.start_mark.line + 1, event.start_mark.column + 1),
                    )
                begun = True
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(filter(None, (error.context, error.problem)))
        if "nesting depth" in what:  # newer versions of libyaml have a limit of their own, beyond ours
            raise _Bad(_TOO_DEEP, (mark.line + 1, mark.column + 1) if mark else None) from error
        raise _Bad(f"not valid YAML: {what}", (mark.line + 1, mark.column + 1) if mark else None) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else 1
        raise _Bad(f"not valid YAML: {error.reason}", (line, 1)) from error


_JSON_TOKEN = re.compile(r'[ \t\r\n]*([\[\]{}:,]|"(?:[^"\\]|\\.)*"|[^\s\[\]{}:,"]+)', re.DOTALL)


def _json_events(text: str) -> Iterator[Event]:
    """Yield the events of a JSON document that ``json.loads`` has accepted, so its grammar is not checked again."""
    import json

    line, line_start, seen = 1, 0, 0
    for match in _JSON_TOKEN.finditer(text):
        token, start = match[1], match.start(1)
        newlines = text.count("\n", seen, start)
        if newlines:
            line += newlines
            line_start = text.rfind("\n", seen, start) + 1
        seen = start
        if token in "[]{}":
            yield token, None, None, line, start - line_start + 1
        elif token not in ":,":
            value = json.loads(token)
            if isinstance(value, str):
                value = _text(value)
            elif isinstance(value, float):
                value = _finite(value)
            yield "v", value, None, line, start - line_start + 1


def _events(text: str, is_json: bool) -> Iterator[Event]:
    return _json_events(text) if is_json else _yaml_events(text)


_NONE: Any = object()  # no key waits for its value
_MERGE: Any = object()  # the key is '<<'


class _Frame:
    """A list or mapping that is being filled."""

    __slots__ = ("anchor", "is_map", "key", "lines", "merges", "skip", "value", "values", "width")

    def __init__(self, value: Any, anchor: str | None) -> None:
        self.value = value
        self.is_map = isinstance(value, dict)
        self.anchor = anchor
        self.key = _NONE
        self.skip = False  # the waiting key's value is to be dropped
        self.lines: dict[str, Place] = {}
        self.merges: list[dict[str, Any]] = []
        self.values = 1  # with everything in it, aliases written out
        self.width = 0  # characters, likewise


class _Builder:
    """Puts the events of one document together.

    Args:
        wanted: paths whose places are to be noted.

    Attributes:
        found: what was wrong on the way: path, message and place.
    """

    def __init__(self, wanted: dict[Path, Place] | None = None) -> None:
        self.found: list[Finding] = []
        self._wanted = wanted
        self._noted: set[Path] = set()
        self._anchors: dict[str, tuple[Any, int, int]] = {}  # value, how many values, how many characters
        self._stack = [_Frame([], None)]

    def build(self, events: Iterator[Event]) -> Any:
        """Return the document's data; None if it is empty.

        Raises:
            _Bad: the document can't be read.
        """
        stack = self._stack
        for kind, value, anchor, line, column in events:
            top = stack[-1]
            if kind == "]" or kind == "}":
                self._close()
            elif top.is_map and top.key is _NONE:
                self._key(top, kind, value, anchor, (line, column))
            else:
                if self._wanted is not None and not top.is_map:
                    self._note((line, column))
                if kind == "[" or kind == "{":
                    self._open(kind, value, anchor, (line, column))
                elif kind == "*":
                    self._put(top, *self._alias(anchor, (line, column)), (line, column))
                else:
                    values, width = 1, len(value) if isinstance(value, str) else 8
                    if anchor:
                        self._anchors[anchor] = (value, values, width)
                    self._put(top, value, values, width, (line, column))
        whole = stack[0].value
        return whole[0] if whole else None

    def _path(self, *more: str | int) -> Path:
        here = [len(frame.value) if not frame.is_map else frame.key for frame in self._stack[1:]]
        return (*(part for part in here if isinstance(part, (str, int))), *more)

    def _note(self, place: Place) -> None:
        path = self._path()
        if self._wanted is not None and path in self._wanted and path not in self._noted:
            self._noted.add(path)
            self._wanted[path] = place

    def _key(self, top: _Frame, kind: str, value: Any, anchor: str | None, place: Place) -> None:
        if kind == "m":
            top.key, top.skip = _MERGE, False
            return
        if kind == "*":
            value = self._alias(anchor, place)[0]
        if kind in "[{" or isinstance(value, (list, dict)):
            raise _Bad("a key is a list or mapping; keys are strings", place)
        if not isinstance(value, str):
            what = value.message if isinstance(value, _Oddity) else f"the key {_shown(value)} is not a string; put it in quotes"
            self.found.append((self._path(_shown(value)), what, place))
            top.key, top.skip = "", True
            return
        top.key = value
        first = top.lines.setdefault(value, place)
        top.skip = first != place
        if top.skip:
            self.found.append(
                (self._path(), f"the key {value[:80]!r} is already on line {first[0]}; remove one of the two", place)
            )
            return
        if anchor and kind != "*":
            self._anchors[anchor] = (value, 1, len(value))
        top.width += len(value)
        if self._wanted is not None:
            self._note(place)

    def _open(self, kind: str, oddity: _Oddity | None, anchor: str | None, place: Place) -> None:
        if oddity is not None:
            self.found.append((self._path(), oddity.message, place))
        if len(self._stack) > MAX_DEPTH:
            raise _Bad(_TOO_DEEP, place)
        if anchor:
            self._anchors.pop(anchor, None)  # until it is whole
        self._stack.append(_Frame([] if kind == "[" else {}, anchor))

    def _close(self) -> None:
        frame = self._stack.pop()
        for source in frame.merges:
            for key, item in source.items():
                frame.value.setdefault(key, item)
        if frame.anchor:
            self._anchors[frame.anchor] = (frame.value, frame.values, frame.width)
        self._put(self._stack[-1], frame.value, frame.values, frame.width, None)

    def _alias(self, anchor: str | None, place: Place) -> tuple[Any, int, int]:
        if anchor in self._anchors:
            return self._anchors[anchor]
        if any(frame.anchor == anchor for frame in self._stack):
            raise _Bad(f"the alias *{anchor} is inside its own anchor; it would never end", place)
        raise _Bad(f"the alias *{anchor} has no anchor &{anchor} before it", place)

    def _put(self, top: _Frame, value: Any, values: int, width: int, place: Place | None) -> None:
        """Add a value to the list or mapping that is being filled."""
        if type(value) is _Oddity:
            self.found.append((self._path(), value.message, place or (1, 1)))
            value = None
        top.values += values
        top.width += width
        if top.values > MAX_VALUES or top.width > MAX_TEXT:
            raise _Bad(
                f"too much in one config: more than {MAX_VALUES:,} values or {MAX_TEXT >> 20} MiB of text once its aliases "
                "are written out",
                place,
            )
        if not top.is_map:
            top.value.append(value)
            return
        if top.key is _MERGE:
            for source in value if isinstance(value, list) else [value]:
                if isinstance(source, dict):
                    top.merges.append(source)
                else:
                    self.found.append((self._path(), "'<<' merges mappings only; write <<: *name of a mapping", place or (1, 1)))
        elif not top.skip:
            top.value[top.key] = value
        top.key = _NONE


def _build(events: Iterator[Event]) -> tuple[Any, list[Finding]]:
    builder = _Builder()
    return builder.build(events), builder.found


def _shown(value: object) -> str:
    if isinstance(value, _Oddity):
        return "?"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _decode(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise _Bad(f"it has {len(data)} bytes; a config has at most {MAX_BYTES >> 20} MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        hint = "save it as UTF-8"
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            hint = "it looks like UTF-16; save it as UTF-8"
        elif data[:2] == b"\x1f\x8b":
            hint = "it looks like gzip; unpack it first"
        raise _Bad(f"not UTF-8 (byte 0x{data[error.start]:02x}); {hint}", (line, 1)) from error
    if "\0" in text:
        raise _Bad("a NUL byte; a config is text", (text.count("\n", 0, text.index("\0")) + 1, 1))
    return text


class _Unclear(Exception):
    """JSON that has to be looked at closely."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise _Unclear
    return mapping


def _constant(name: str) -> object:
    raise _Unclear


def _is_tame(data: object) -> bool:
    """Tell whether data from JSON keeps all limits."""
    level, seen = [data], 0
    for _ in range(MAX_DEPTH + 1):
        seen += len(level)
        if not level:
            return True
        if seen > MAX_VALUES:
            return False
        below: list[object] = []
        for value in level:
            if isinstance(value, dict):
                if any("\0" in key or not key.isascii() for key in value):
                    return False
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif (isinstance(value, float) and value - value != 0) or (
                isinstance(value, str) and ("\0" in value or (not value.isascii() and _SURROGATE.search(value)))
            ):
                return False
        level = below
    return not level


def _load_json(text: str) -> tuple[Any, list[Finding]]:
    import json

    try:
        try:
            data = json.loads(text, object_pairs_hook=_pairs, parse_constant=_constant)
            if _is_tame(data):
                return data, []
        except _Unclear:
            json.loads(text)  # the rest must be JSON too before it is looked at closely
    except json.JSONDecodeError as error:
        raise _Bad(f"not valid JSON: {error.msg}", (error.lineno, error.colno)) from error
    except RecursionError as error:
        raise _Bad(_TOO_DEEP) from error
    except ValueError as error:  # Python's own limit on the digits of a number
        raise _Bad(_TOO_LONG) from error
    return _build(_json_events(text))


def parse(data: bytes, origin: str) -> Document:
    """Read a config.

    Args:
        data: YAML or JSON in UTF-8.
        origin: how the user knows it; a name that ends in ``.json`` is read as JSON only.

    Returns:
        The document; its ``found`` lists what is wrong but didn't stop the reading.

    Raises:
        ConfigError: it can't be read.
    """
    try:
        text = _decode(data)
        only_json = origin.endswith(".json") and bool(text.strip())
        if only_json or text.lstrip()[:1] == "{":
            try:
                return _document(*_load_json(text), origin, text, True)
            except _Bad as error:
                if only_json or not str(error).startswith("not valid JSON"):
                    raise
        return _document(*_build(_yaml_events(text)), origin, text, False)
    except _Bad as error:
        where = f"{origin}:{error.place[0]}" if error.place else origin
        raise ConfigError([Problem(where, "", str(error))]) from error


def _document(value: Any, found: list[Finding], origin: str, text: str, is_json: bool) -> Document:
    if value is None and not found:
        raise _Bad("the config is empty; it needs at least 'version: 1' and 'steps:'")
    if not isinstance(value, dict):
        kind = "a list" if isinstance(value, list) else "a single value"
        raise _Bad(f"the top level is {kind}; a config is a mapping that starts with 'version: 1'", (1, 1))
    return Document(value, origin, found, text, is_json)


def parse_value(text: str) -> Any:
    """Return one value written in YAML, as ``--set`` takes it.

    Args:
        text: such as ``5``, ``[a, b]`` or ``{cpu: 2}``.

    Raises:
        ValueError: it can't be read.
    """
    try:
        value, found = _build(_yaml_events(_decode(text.encode("utf-8", "surrogateescape"))))
    except _Bad as error:
        raise ValueError(str(error)) from error
    if found:
        raise ValueError(found[0][1])
    return value
