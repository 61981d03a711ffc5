"""What a step's function returned, as JSON: arrays' scalars, dataclasses, named tuples, and what can't be kept.

A file beside ``call.py``, which loads it for what is no plain mapping and no plain value.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEPTH = 100  # levels of a value


def as_json(target: str, returned: Any, single: int) -> tuple[str, str, str]:
    """Return the values to write, and the class and message of what can't be kept; empty strings for nothing of it.

    Args:
        target: the function, for messages.
        returned: what it returned.
        single: the most characters of one value without a name.
    """
    import json

    try:
        named = _fields(returned)
        if hasattr(named, "items") and hasattr(named, "keys") and not isinstance(named, type):
            return _named(target, named)
    except Exception as error:
        return "", "user", "what %s returned can't be read: %s: %s" % (target, type(error).__name__, error)
    try:
        text = json.dumps({"value": _plain(named)})
        if len(text) <= single:
            return text, "", ""
        why = "it is larger than %d bytes" % single
    except Exception as error:
        why = str(error)
    message = "%s returned a %s, of which nothing is kept (%s)" % (target, type(returned).__name__, why)
    return "", "note", message + "; return a mapping to keep values, and write data to an output"


def _named(target: str, returned: Any) -> tuple[str, str, str]:
    """Return the values of a mapping; of those that are not JSON, the message has the names, and the others are kept."""
    import json

    try:
        return json.dumps(dict(returned)), "", ""
    except Exception:
        kept, lost = {}, []
        for name, value in returned.items():
            try:
                plain = {_key(name): _plain(value)}
                json.dumps(plain)
                kept.update(plain)
            except Exception as error:
                lost.append("%r (%s)" % (name, error))
    message = "%s returned a value that is not JSON: %s" % (target, ", ".join(lost[:5])) if lost else ""
    return json.dumps(kept), "user" if lost else "", message


def _number(value: Any) -> int | float | None:
    """Return the number that a scalar of NumPy, pandas, PyTorch and others is, or None for what is none."""
    if isinstance(value, (str, bytes, complex)) or tuple(getattr(value, "shape", ())):
        return None
    item = getattr(value, "item", None)
    if callable(item):
        plain = item()
        if isinstance(plain, (bool, int, float)):
            return plain
        if type(plain) is not type(value):
            return None
    if hasattr(type(value), "__index__"):
        return int(value.__index__())
    return float(value) if hasattr(type(value), "__float__") else None


def _fields(value: Any) -> Any:
    """Return what has names as a mapping, and anything else as it is."""
    if isinstance(value, type) or (hasattr(value, "keys") and hasattr(value, "items")):
        return value
    if hasattr(value, "__dataclass_fields__"):
        return {name: getattr(value, name) for name in value.__dataclass_fields__}
    if hasattr(value, "__attrs_attrs__"):
        return {field.name: getattr(value, field.name) for field in value.__attrs_attrs__}
    return value._asdict() if isinstance(value, tuple) and hasattr(value, "_asdict") else value


def _plain(value: Any, depth: int = 0) -> Any:
    """Return a value as JSON has it: a scalar as a number, a dataclass as a mapping.

    Raises:
        TypeError: it is not JSON.
        ValueError: it is nested too deeply, or holds itself.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if depth > DEPTH:
        raise ValueError("it is nested more than %d levels deep" % DEPTH)
    if not isinstance(value, tuple):  # in a value, a named tuple is a list, as json has it
        value = _fields(value)
    if hasattr(value, "items") and hasattr(value, "keys") and not isinstance(value, type):
        return {_key(key): _plain(below, depth + 1) for key, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(below, depth + 1) for below in value]
    number = _number(value)
    if number is None:
        raise TypeError("%s is not JSON" % type(value).__name__)
    return number


def _key(key: Any) -> Any:
    return key if key is None or isinstance(key, (bool, int, float, str)) else _plain(key)
