"""From bytes to plain data, safely: YAML or JSON in UTF-8.

Whatever the bytes are, the answer is data or a ``ConfigError``. Aliases can't multiply without bound, and depth and size are
limited before they can hurt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from math import isfinite
from typing import Any, NamedTuple

from backends.config.bounds import MAX_BYTES, MAX_VALUES, is_too_heavy
from backends.config.builder import Builder, Finding
from backends.config.events import (
    MAX_DEPTH,
    TOO_DEEP,
    TOO_LONG,
    TOO_MUCH,
    Event,
    Oddity,
    Unreadable,
    json_events,
    string,
    yaml_events,
)
from backends.config.paths import Path, Place
from backends.errors import ConfigError, Problem

_MOST_EVENTS = 200_000  # that are read a second time for the places of problems; those further down get the nearest before
_JSON_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


class Document(NamedTuple):
    """One config as plain data.

    Attributes:
        data: mappings, lists, strings, numbers, booleans and None; aliased parts are shared, so copy before changing.
        origin: how the user knows it, such as ``cfg.yaml``.
        oddities: what was wrong but didn't stop the reading: path, message and place of each.
        text: the document itself.
        is_json: whether it was read as JSON.
    """

    data: dict[str, Any]
    origin: str
    oddities: list[Finding]
    text: str
    is_json: bool

    def places(self, paths: Iterable[Path]) -> dict[Path, Place]:
        """Return line and column of each path, or of its nearest ancestor that is written in the document.

        Args:
            paths: keys and list positions from the top, such as ``("steps", "train", "inputs", "table")``.
        """
        paths = list(paths)
        wanted = {path[:length]: (0, 0) for path in paths for length in range(len(path) + 1)}
        Builder(wanted).build(islice(_events(self.text, self.is_json), _MOST_EVENTS))
        for path in sorted(wanted, key=len):
            if wanted[path] == (0, 0):
                wanted[path] = wanted[path[:-1]] if path else (1, 1)
        return {path: wanted[path] for path in paths}


def _events(text: str, is_json: bool) -> Iterator[Event]:
    return json_events(text) if is_json else yaml_events(text)


def _build(events: Iterable[Event]) -> tuple[Any, list[Finding]]:
    builder = Builder()
    return builder.build(events), builder.oddities


def _decode(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise Unreadable(f"it has {len(data)} bytes; a config has at most {MAX_BYTES >> 20} MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        hint = "save it as UTF-8"
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            hint = "it looks like UTF-16; save it as UTF-8"
        elif data[:2] == b"\x1f\x8b":
            hint = "it looks like gzip; unpack it first"
        raise Unreadable(f"not UTF-8 (byte 0x{data[error.start]:02x}); {hint}", (line, 1)) from error
    if "\0" in text:
        raise Unreadable("a NUL byte; a config is text", (text.count("\n", 0, text.index("\0")) + 1, 1))
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
    """Return whether data from JSON keeps all limits."""
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
            elif (isinstance(value, float) and not isfinite(value)) or (
                isinstance(value, str) and isinstance(string(value), Oddity)
            ):
                return False
        level = below
    return not level


def holds_too_much(text: str) -> bool:
    """Return whether JSON would take too much memory once it is read."""
    return is_too_heavy(text) and is_too_heavy(_JSON_STRING.sub("", text))


def _load_json(text: str) -> tuple[Any, list[Finding]]:
    if holds_too_much(text):
        raise Unreadable(TOO_MUCH)
    try:
        try:
            data = json.loads(text, object_pairs_hook=_pairs, parse_constant=_constant)
            if _is_tame(data):
                return data, []
        except _Unclear:
            json.loads(text)  # the rest must be JSON too before it is looked at closely
    except json.JSONDecodeError as error:
        raise Unreadable(f"not valid JSON: {error.msg}", (error.lineno, error.colno)) from error
    except RecursionError as error:
        raise Unreadable(TOO_DEEP) from error
    except ValueError as error:  # Python's own limit on the digits of a number
        raise Unreadable(TOO_LONG) from error
    return _build(json_events(text))


def parse(data: bytes, origin: str) -> Document:
    """Read a config.

    Args:
        data: YAML or JSON in UTF-8.
        origin: how the user knows it; a name that ends in ``.json`` is read as JSON only.

    Returns:
        The document; its ``oddities`` are what is wrong but didn't stop the reading.

    Raises:
        ConfigError: it can't be read.
    """
    try:
        text = _decode(data)
        only_json = origin.endswith(".json") and bool(text.strip())
        if only_json or text.lstrip()[:1] == "{":
            try:
                return _document(*_load_json(text), origin, text, True)
            except Unreadable as error:
                if only_json or not str(error).startswith("not valid JSON"):
                    raise
        return _document(*_build(yaml_events(text)), origin, text, False)
    except Unreadable as error:
        where = f"{origin}:{error.place[0]}" if error.place else origin
        raise ConfigError([Problem(where, "", str(error))]) from error


def _document(value: Any, oddities: list[Finding], origin: str, text: str, is_json: bool) -> Document:
    if value is None and not oddities:
        raise Unreadable("the config is empty; it needs at least 'version: 1' and 'steps:'")
    if not isinstance(value, dict):
        kind = "a list" if isinstance(value, list) else "a single value"
        raise Unreadable(f"the top level is {kind}; a config is a mapping that starts with 'version: 1'", (1, 1))
    return Document(value, origin, oddities, text, is_json)


def parse_value(text: str) -> Any:
    """Return one value written in YAML, as ``--set`` takes it.

    Args:
        text: such as ``5``, ``[a, b]`` or ``{cpu: 2}``.

    Raises:
        ValueError: it can't be read.
    """
    try:
        value, oddities = _build(yaml_events(_decode(text.encode("utf-8", "surrogateescape"))))
    except Unreadable as error:
        raise ValueError(str(error)) from error
    if oddities:
        raise ValueError(oddities[0][1])
    return value
