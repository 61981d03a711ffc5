"""How things look on a terminal: colours, sizes, durations, columns."""

from __future__ import annotations

import os
import select
from collections.abc import Mapping, Sequence

from backends import outcome

SKIPPED, RETRY, RUNNING, WAITING = "skipped", "retry", "running", "waiting"
COLOURS = {outcome.SUCCESS: "32", SKIPPED: "2", RUNNING: "36", WAITING: "2", RETRY: "33", "unknown": "33"}
RICH = {"32": "green", "2": "dim", "36": "cyan", "33": "yellow", "31": "red"}


def wants_colour(fd: int, environ: Mapping[str, str]) -> bool:
    """Tell whether colours may be written to ``fd``: a terminal that can show them, and NO_COLOR unset or empty.

    Source: https://no-color.org.
    """
    return is_terminal(fd, environ) and not environ.get("NO_COLOR")


def is_terminal(fd: int, environ: Mapping[str, str]) -> bool:
    try:
        return os.isatty(fd) and environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
    except OSError:
        return False


def paint(text: str, state: str, colour: bool) -> str:
    """Return ``text`` in the colour of a step's state, if ``colour``."""
    return f"\x1b[{COLOURS.get(state, '31')}m{text}\x1b[0m" if colour else text


def duration(seconds: float) -> str:
    """Return a time span as people write it: ``4 ms``, ``0.42 s``, ``12.3 s``, ``2m05s``, ``1h02m``."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"


def size(number: int) -> str:
    """Return a number of bytes as people write it, in powers of 1000."""
    if number < 1000:
        return f"{number} B"
    scaled = float(number)
    for unit in ("kB", "MB", "GB"):
        scaled /= 1000
        if scaled < 999.95:
            return f"{scaled:.1f} {unit}"
    return f"{scaled / 1000:.1f} TB"


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return rows as left-aligned columns, two spaces apart, without trailing spaces."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def write_fd(fd: int, data: bytes) -> None:
    """Write all of ``data``, however slow the reader; one that has gone away is no error."""
    view = memoryview(data)
    try:
        while view:
            try:
                view = view[os.write(fd, view) :]
            except BlockingIOError:
                select.select([], [fd], [])
    except OSError:
        pass


def visible(line: str) -> str:
    """Return what a terminal would still show of a line that rewrites itself with carriage returns."""
    return line.rstrip("\r").rpartition("\r")[2]
