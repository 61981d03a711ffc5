"""Read what a step left beside its outputs: its values, and whatever else may be a file by then."""

from __future__ import annotations

import os

from backends import wire
from backends.errors import UserError
from backends.store import trees

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


SIZE = 1 << 20  # bytes of values that a step may return
DEPTH = 100  # levels of a value
_NAMED = 5  # values that a message names


class _Constant:
    """NaN or an infinity, which JSON has no number for."""

    def __init__(self, name: str) -> None:
        self.name = name


class _TooLarge(_Constant):
    """A number that no float holds."""


def left(path: str, size: int) -> bytes | None:
    """Return up to ``size`` bytes of a file that a step may have made; None if there is none.

    Raises:
        UserError: it is a pipe, a link or the like, or may not be read.
        InfraError: the disk failed.
    """
    if not os.path.lexists(path):
        return None
    fd, _ = trees.open_file(path)
    try:
        data = b""
        while len(data) < size and (block := os.read(fd, size - len(data))):
            data += block
        return data
    except OSError as error:
        raise trees.unreadable(path, error) from error
    finally:
        os.close(fd)


def read(path: str, *, required: bool = False) -> tuple[dict[str, Any], str]:
    """Return a step's values, and a note on those that were not finite numbers: they are null.

    Args:
        path: the file that the step, or its shim, wrote.
        required: the shim of the step leaves values in any case, if it came to call the function.

    Raises:
        UserError: they can't be kept; the message names the value.
        InfraError: the disk failed.
    """
    try:
        data = left(path, SIZE + 1)
    except UserError as error:
        raise UserError(f"the step's values can't be read: {error}") from error
    if data is None:
        if required:
            raise UserError("the step's process ended with status 0 before its function was called")
        return {}, ""
    if len(data) > SIZE:
        raise UserError(f"the step's values are larger than {SIZE} bytes; write an output instead")
    try:
        values = wire.loads(data)
    except RecursionError:
        raise UserError(f"the step's values are nested more than {DEPTH} levels deep") from None
    except ValueError as error:
        values = _with_constants(data, error)
    if not isinstance(values, dict):
        raise UserError(f"the step's values must be a JSON mapping, not a {type(values).__name__}")
    return values, _settle(values)


def _with_constants(data: bytes, why: ValueError) -> Any:
    """Return values with whatever is no finite number marked."""
    import json

    def number(text: str) -> Any:
        value = float(text)
        return _TooLarge(text) if value - value else value

    try:
        return json.loads(data.decode(), parse_float=number, parse_constant=_Constant)
    except (ValueError, RecursionError):
        raise UserError(f"the step wrote values that are not JSON: {why}") from why


def _settle(values: dict[str, Any]) -> str:
    """Replace what is not finite by None, and return a note on it.

    Raises:
        UserError: a value can't be kept.
    """
    absent: list[str] = []
    todo: list[tuple[Any, str, int]] = [(values, "", 1)]
    while todo:
        holder, path, depth = todo.pop()
        if depth > DEPTH:
            raise UserError(f"the step's value {_short(path)} is nested more than {DEPTH} levels deep")
        for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
            where = f"{path}.{key}" if path else str(key)
            if isinstance(value, dict | list):
                todo.append((value, where, depth + 1))
            elif isinstance(value, _TooLarge):
                raise UserError(f"the step's value {_short(where)} is {value.name[:40]}, more than a number can be")
            elif isinstance(value, _Constant):
                holder[key] = None
                absent.append(f"{_short(where)} is {value.name}")
            for text in (key, value):
                if isinstance(text, str) and not text.isascii() and any("\ud800" <= char < "\ue000" for char in text):
                    raise UserError(f"the step's value {_short(where)} has half of a surrogate pair in it, which is no text")
    if not absent:
        return ""
    more = f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
    return f"the step's value {', '.join(absent[:_NAMED])}{more}: JSON has no such number, so it is kept as null"


def _short(path: str) -> str:
    return repr(path if len(path) <= 80 else f"{path[:80]}…")
