"""Output of steps that print side by side, cut into whole lines."""

from __future__ import annotations

from collections.abc import Iterable

STDOUT, STDERR = 1, 2
LINE = 65536  # bytes after which a line that does not end is shown anyway


class Splitter:
    """Cuts the output of steps into whole lines, each prefixed with its step's name, so that they can print side by side.

    Args:
        names: the steps that there are, for the width of the names' column.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.width = min(20, max(map(len, names), default=0))
        self._partial: dict[tuple[str, int], bytes] = {}

    def feed(self, step: str, stream: int, data: bytes) -> list[bytes]:
        """Return the lines that ``data`` completes, without their ends; a line that gets too long is cut."""
        *lines, rest = (self._partial.pop((step, stream), b"") + data).split(b"\n")
        if len(rest) >= LINE:
            lines.append(rest)
            rest = b""
        if rest:
            self._partial[step, stream] = rest
        return lines

    def rest(self, step: str, stream: int) -> list[bytes]:
        """Return what came after the last end of line, if anything did."""
        rest = self._partial.pop((step, stream), b"")
        return [rest] if rest else []

    def prefix(self, step: str) -> str:
        """Return what goes before each line of a step."""
        return f"{step:<{self.width}} | "

    def render(self, step: str, lines: list[bytes]) -> bytes:
        """Return the lines as they are written."""
        prefix = self.prefix(step).encode()
        return b"".join(prefix + line.rstrip(b"\r").rpartition(b"\r")[2] + b"\n" for line in lines)
