"""How messages speak of values."""

from __future__ import annotations

from backends import wire
from backends.config import document


def shown(value: object) -> str:
    """Return how messages speak of a value, cut to a readable length."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the string {cut(value)!r}"
    if isinstance(value, (int, float)):
        return f"the number {cut(str(value))}"
    return "a list" if isinstance(value, list) else "a mapping"


def cut(text: str, length: int = 60) -> str:
    """Return the beginning of a long text."""
    return text if len(text) <= length else text[:length] + "…"


def flow(value: object) -> str:
    """Return small plain data as one line of YAML, as a person would write it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, str):
        try:
            if document.parse_value(f"[{value}]") == [value]:
                return value
        except ValueError:
            pass
        return wire.dumps(value)
    return shown(value).removeprefix("the number ") if value is not None else "null"
