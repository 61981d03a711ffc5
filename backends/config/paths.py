"""Where things stand: paths in plain data, and lines and columns of a document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Path = tuple[str | int, ...]
"""Keys and list positions from the top, such as ``("steps", "train", "run", 1)``."""
Place = tuple[int, int]
"""Line and column, both from 1."""


def dotted(path: Path) -> str:
    """Return a path as people write it, such as ``steps.train.run[1]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def strings(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Yield every string in plain data with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from strings(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from strings(item, (*path, index))
