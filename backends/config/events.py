"""YAML and JSON text as one kind of events, with lines and columns.

YAML is read by its 1.2 core schema: only ``true`` and ``false`` are booleans (``on``, ``off``, ``yes`` and ``no`` are
strings), there are no dates and no base-60 numbers, and ``010`` is ten. Nothing is built from tags.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from math import isfinite
from typing import Any

from backends.config.bounds import MAX_NODES, MAX_TEXT, MAX_VALUES
from backends.config.paths import Place

Event = tuple[str, Any, str | None, int, int]
"""Kind (``[``, ``]``, ``{``, ``}``, ``v`` a value, ``m`` the plain ``<<``, ``*`` an alias), value, anchor, line and column."""

MAX_DEPTH = 100
TOO_DEEP = f"more than {MAX_DEPTH} levels deep; make it flatter"
TOO_LONG = "a number of more than 4000 digits; put it in quotes"
TOO_MUCH = (
    f"too much in one config: more than {MAX_VALUES:,} values or {MAX_TEXT >> 20} MiB of text once its aliases are written "
    f"out, or {MAX_NODES:,} keys and values in YAML"
)

_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z|[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z")
_TAG = "tag:yaml.org,2002:"
_TAG_LINE = re.compile("^%TAG|[\r\n\x85\u2028\u2029]%TAG")
_MOST_TAG_LINES = 20
_SURROGATE = re.compile("[\ud800-\udfff]")


class Unreadable(Exception):
    """A document that can't be read any further."""

    def __init__(self, message: str, place: Place | None = None) -> None:
        self.place = place
        super().__init__(message)


class Oddity:
    """Stands for a value that can't be used, until it is reported and dropped."""

    def __init__(self, message: str) -> None:
        self.message = message


# -- values ------------------------------------------------------------------------------------------------------------


def number(value: float) -> object:
    """Return a float, or the oddity it is."""
    if isfinite(value):
        return value
    return Oddity("infinite and undefined numbers have no JSON form; put it in quotes if it is meant as text")


def _scalar(text: str) -> object:
    """Return a plain YAML scalar's value by the 1.2 core schema."""
    if text in _NULL:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text[0] in "+-.0123456789":
        if _INT.match(text):
            return _integer(text)
        if _FLOAT.match(text):
            return number(float(text)) if text[-1].isdigit() or text[-1] == "." else number(float("nan"))
    return text


def _integer(text: str) -> object:
    if len(text) > 4000:
        return Oddity(TOO_LONG)
    value = int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    # Digits of another base are more in decimal, and Python writes no number of more than 4300.
    return value if value.bit_length() < 13_000 else Oddity(TOO_LONG)


def string(text: str) -> object:
    """Return a string that a program's argument and a UTF-8 file can hold, or the oddity it is."""
    if "\0" in text:
        return Oddity("the text has a NUL character, which no argument or variable can hold; remove it")
    if not text.isascii() and _SURROGATE.search(text):
        return Oddity("the text has half a surrogate pair, which is not valid Unicode; write both halves")
    return text


def _tagged(tag: str, text: str) -> object:
    """Return the value of a scalar with an explicit tag."""
    if tag in ("!", _TAG + "str"):
        return string(text)
    kinds: dict[str, Any] = {"null": type(None), "bool": bool, "int": int, "float": (int, float)}
    kind = tag.removeprefix(_TAG)
    if not tag.startswith(_TAG) or kind not in kinds:
        return _unknown_tag(tag)
    value: Any = _scalar(text)
    if isinstance(value, Oddity):
        return value
    if not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "bool"):
        return Oddity(f"this is not what its tag !!{kind} says; remove the tag")
    return float(value) if kind == "float" else value


def _unknown_tag(tag: str) -> Oddity:
    shown = "!!" + tag.removeprefix(_TAG) if tag.startswith(_TAG) else tag
    return Oddity(f"the tag {shown[:80]} is not supported; a config is plain data, so remove the tag")


# -- YAML --------------------------------------------------------------------------------------------------------------


def yaml_events(text: str) -> Iterator[Event]:
    """Yield the events of a YAML document.

    Raises:
        Unreadable: it is not valid, or there is more than one.
    """
    import yaml  # JSON does without

    begun = False
    nodes, ends = 0, (yaml.MappingEndEvent, yaml.SequenceEndEvent)
    if len(_TAG_LINE.findall(text)) > _MOST_TAG_LINES:  # each of which libyaml compares with all before
        raise Unreadable(f"more than {_MOST_TAG_LINES} lines begin with %TAG; a config is plain data, so remove them")
    try:
        get = _parser(text).get_event
        while (event := get()) is not None:
            if (read := _READERS.get(type(event).__name__)) is not None:
                nodes += event.__class__ not in ends
                if nodes > MAX_NODES:
                    raise Unreadable(TOO_MUCH, _place(event.start_mark))
                yield read(event)
            elif type(event) is yaml.DocumentStartEvent:
                if begun:
                    message = "a second document starts here; a config is one document, so remove the '---'"
                    raise Unreadable(message, _place(event.start_mark))
                begun = True
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(filter(None, (error.context, error.problem)))
        # Newer versions of libyaml have a limit of their own on depth, beyond ours.
        message = TOO_DEEP if "nesting depth" in problem else f"not valid YAML: {problem}"
        raise Unreadable(message, _place(mark) if mark else None) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else 1
        raise Unreadable(f"not valid YAML: {error.reason}", (line, 1)) from error


def _parser(text: str) -> Any:
    """Return PyYAML's parser of a text: libyaml's, or where PyYAML was built without it a slower one with the same events."""
    import yaml

    try:
        from yaml._yaml import CParser
    except ImportError:

        class Parser(yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser):
            def __init__(self, stream: str) -> None:
                yaml.reader.Reader.__init__(self, stream)
                yaml.scanner.Scanner.__init__(self)
                yaml.parser.Parser.__init__(self)

        return Parser(text)
    return CParser(text)


def _place(mark: Any) -> Place:
    return mark.line + 1, mark.column + 1


def _scalar_event(event: Any) -> Event:
    plain, quoted = event.implicit
    if plain:
        value = _scalar(event.value)
    elif quoted:
        value = string(event.value)
    else:
        value = _tagged(event.tag, event.value)
    return "m" if plain and event.value == "<<" else "v", value, event.anchor, *_place(event.start_mark)


def _start_event(event: Any, letter: str, name: str) -> Event:
    oddity = None if event.tag in (None, "!", _TAG + name) else _unknown_tag(event.tag)
    return letter, oddity, event.anchor, *_place(event.start_mark)


_READERS: dict[str, Callable[[Any], Event]] = {  # by the class of PyYAML's event
    "ScalarEvent": _scalar_event,
    "MappingStartEvent": lambda event: _start_event(event, "{", "map"),
    "SequenceStartEvent": lambda event: _start_event(event, "[", "seq"),
    "MappingEndEvent": lambda event: ("}", None, None, 0, 0),
    "SequenceEndEvent": lambda event: ("]", None, None, 0, 0),
    "AliasEvent": lambda event: ("*", None, event.anchor, *_place(event.start_mark)),
}


# -- JSON --------------------------------------------------------------------------------------------------------------

_JSON_TOKEN = re.compile(r'[ \t\r\n]*([\[\]{}:,]|"(?:[^"\\]++|\\.)*+"|[^\s\[\]{}:,"]+)', re.DOTALL)


def json_events(text: str) -> Iterator[Event]:
    """Yield the events of a JSON document that ``json.loads`` has accepted, so its grammar is not checked again."""
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
                value = string(value)
            elif isinstance(value, float):
                value = number(value)
            yield "v", value, None, line, start - line_start + 1
