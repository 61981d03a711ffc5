"""From events to plain data, with the places of things and within bounds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from backends.config.bounds import MAX_PROBLEMS, MAX_TEXT, MAX_VALUES, width
from backends.config.events import MAX_DEPTH, TOO_DEEP, TOO_MUCH, Event, Oddity, Unreadable
from backends.config.paths import Path, Place

Finding = tuple[Path, str, Place]

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
        self.width = 0  # bytes of its text as JSON, likewise


class Builder:
    """Put the events of one document together.

    Args:
        wanted: paths whose places are to be noted.

    Attributes:
        oddities: what was wrong on the way: path, message and place.
    """

    def __init__(self, wanted: dict[Path, Place] | None = None) -> None:
        self.oddities: list[Finding] = []
        self._wanted = wanted
        self._noted: set[Path] = set()
        self._anchors: dict[str, tuple[Any, int, int]] = {}  # value, how many values, how many bytes of text
        self._stack = [_Frame([], None)]

    def build(self, events: Iterable[Event]) -> Any:
        """Return the document's data; None if it is empty.

        Raises:
            Unreadable: the document can't be read.
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
                    size = width(value) if isinstance(value, str) else 8
                    if anchor:
                        self._anchors[anchor] = (value, 1, size)
                    self._put(top, value, 1, size, (line, column))
        whole = stack[0].value
        return whole[0] if whole else None

    def _path(self, *more: str | int) -> Path:
        parts = [len(frame.value) if not frame.is_map else frame.key for frame in self._stack[1:]]
        return (*(part for part in parts if isinstance(part, (str, int))), *more)

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
            raise Unreadable("a key is a list or mapping; keys are strings", place)
        if not isinstance(value, str):
            is_oddity = isinstance(value, Oddity)
            message = value.message if is_oddity else f"the key {_shown(value)} is not a string; put it in quotes"
            self._report(self._path(_shown(value)), message, place)
            top.key, top.skip = "", True
            return
        top.key = value
        first = top.lines.setdefault(value, place)
        top.skip = first != place
        if top.skip:
            message = f"the key {value[:80]!r} is already on line {first[0]}; remove one of the two"
            self._report(self._path(), message, place)
            return
        if anchor and kind != "*":
            self._anchors[anchor] = (value, 1, width(value))
        top.width += width(value)
        if self._wanted is not None:
            self._note(place)

    def _open(self, kind: str, oddity: Oddity | None, anchor: str | None, place: Place) -> None:
        if oddity is not None:
            self._report(self._path(), oddity.message, place)
        if len(self._stack) > MAX_DEPTH:
            raise Unreadable(TOO_DEEP, place)
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
            raise Unreadable(f"the alias *{anchor} is inside its own anchor; it would never end", place)
        raise Unreadable(f"the alias *{anchor} has no anchor &{anchor} before it", place)

    def _report(self, path: Path, message: str, place: Place) -> None:
        if len(self.oddities) >= MAX_PROBLEMS:
            raise Unreadable(f"more than {MAX_PROBLEMS:,} problems so far, of which this is the last: {message}", place)
        self.oddities.append((path, message, place))

    def _put(self, top: _Frame, value: Any, values: int, size: int, place: Place | None) -> None:
        """Add a value to the list or mapping that is being filled."""
        if type(value) is Oddity:
            self._report(self._path(), value.message, place or (1, 1))
            value = None
        top.values += values
        top.width += size
        if top.values > MAX_VALUES or top.width > MAX_TEXT:
            raise Unreadable(TOO_MUCH, place)
        if not top.is_map:
            top.value.append(value)
            return
        if top.key is _MERGE:
            for source in value if isinstance(value, list) else [value]:
                if isinstance(source, dict):
                    top.merges.append(source)
                else:
                    message = "'<<' merges mappings only; write <<: *name of a mapping"
                    self._report(self._path(), message, place or (1, 1))
        elif not top.skip:
            top.value[top.key] = value
        top.key = _NONE


def _shown(value: object) -> str:
    if isinstance(value, Oddity):
        return "?"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
