"""How much one config may hold, counted before anything is built of it. Every start reads this, so it imports nothing."""

from __future__ import annotations

MAX_BYTES = 16 * 1024 * 1024  # of a config as it is written, and as canonical JSON once it is resolved
MAX_VALUES = 1_000_000  # counted as if every alias were written out
MAX_TEXT = 16 * 1024 * 1024  # bytes of its strings as JSON, counted the same way
MAX_NODES = 500_000  # keys and values in YAML, each of which takes some microseconds
MAX_STEPS = 20_000  # with the members of foreach steps; a resolved one has some 800 bytes
MAX_PROBLEMS = 10_000  # more than anybody can read

_MAX_WEIGHT = 160_000_000  # bytes of memory, about
# What CPython 3.11 takes for an object with its first key, for each key and its value, for a list, and for an item of one.
_WEIGHTS = (("{", 200), (":", 170), ("[", 72), (",", 10))


def is_too_heavy(text: str | bytes) -> bool:
    """Return whether JSON could take too much memory once it is read; marks within its strings are counted, too."""
    if isinstance(text, str):
        return sum(text.count(mark) * weight for mark, weight in _WEIGHTS) > _MAX_WEIGHT
    return sum(text.count(mark.encode()) * weight for mark, weight in _WEIGHTS) > _MAX_WEIGHT


def width(text: str) -> int:
    """Return about how many bytes a string has as canonical JSON."""
    return len(text) if text.isascii() else 6 * len(text)
