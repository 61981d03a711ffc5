"""Writing to a terminal: whether there is one, its colours, its columns, its carriage returns."""

from __future__ import annotations

import os
import select
from collections.abc import Mapping, Sequence

from backends import outcome

# States of a step beside the classes of how one ended.
SKIPPED, RETRY, RUNNING, WAITING = "skipped", "retry", "running", "waiting"
# The SGR parameter of each state's colour; red for all others, which are failures.
COLOURS = {outcome.SUCCESS: "32", SKIPPED: "2", RUNNING: "36", WAITING: "2", RETRY: "33", "unknown": "33"}
RED = "31"


def wants_colour(fd: int, environ: Mapping[str, str]) -> bool:
    """Return whether colours may be written to ``fd``: a terminal that can show them, and NO_COLOR unset or empty.

    Source: https://no-color.org.
    """
    return is_terminal(fd, environ) and not environ.get("NO_COLOR")


def is_terminal(fd: int, environ: Mapping[str, str]) -> bool:
    """Return whether ``fd`` is a terminal that understands escape sequences."""
    try:
        return os.isatty(fd) and environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
    except OSError:
        return False


def paint(text: str, state: str, colour: bool) -> str:
    """Return ``text`` in the colour of a step's state, if ``colour``."""
    return f"\x1b[{COLOURS.get(state, RED)}m{text}\x1b[0m" if colour else text


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
