"""Writing to a terminal: whether there is one, its colours, its columns, and what it must never get raw."""

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
# What a terminal takes for an order, or shows in another order than it is written: control characters and Unicode's own for
# bidirectional text. Source: ECMA-48; Unicode Standard Annex #9.
ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
ESCAPES |= {code: f"\\u{code:04x}" for code in (0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))}
ESCAPES |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}
_ESCAPES_BUT_LINES = {code: shown for code, shown in ESCAPES.items() if code not in (ord("\n"), ord("\t"))}


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


def escaped(text: str, *, one_line: bool = False) -> str:
    """Return a text of others' with its control characters shown, such as ``\\x1b``, instead of obeyed.

    Args:
        text: a message, a name or a path.
        one_line: ends of lines and tabs are shown, too.
    """
    return text if text.isprintable() else text.translate(ESCAPES if one_line else _ESCAPES_BUT_LINES)


def paint(text: str, state: str, colour: bool) -> str:
    """Return ``text``, escaped, in the colour of a step's state, if ``colour``."""
    text = escaped(text)
    return f"\x1b[{COLOURS.get(state, RED)}m{text}\x1b[0m" if colour else text


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return rows as left-aligned columns, two spaces apart, without trailing spaces; each cell is escaped."""
    rows = [tuple(escaped(cell, one_line=True) for cell in row) for row in rows]
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
