"""Output of steps that print side by side, cut into whole lines."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic

STDOUT, STDERR = 1, 2
LINE = 65536  # bytes after which a line that does not end is shown anyway
PROGRESS = 2.0  # seconds between two states of a progress bar, which begins its line again and again and ends none


class Splitter:
    """Cuts the output of steps into whole lines, each prefixed with its step's name, so that they can print side by side.

    Args:
        names: the steps that there are, for the width of the names' column.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.width = min(20, max(map(len, names), default=0))
        self._partial: dict[tuple[str, int], bytes] = {}
        self._bars: dict[tuple[str, int], tuple[float, bytes]] = {}  # when a line without an end was shown, and how it was then

    def feed(self, step: str, stream: int, data: bytes) -> list[bytes]:
        """Return the lines that ``data`` completes, without their ends; a line that gets too long is cut.

        Of a line that was begun anew with a carriage return, the last state is shown every few seconds.
        """
        place = step, stream
        *lines, rest = (self._partial.pop(place, b"") + data).split(b"\n")
        if lines and place in self._bars and _state(lines[0]) == self._bars.pop(place)[1]:
            del lines[0]  # it ended as it was shown last
        if b"\r" in rest.rstrip(b"\r"):
            state, now = _state(rest), monotonic()
            rest = b"\r" + state + (b"\r" if rest.endswith(b"\r") else b"")
            if place not in self._bars or now >= self._bars[place][0] + PROGRESS:
                self._bars[place] = now, state
                lines.append(rest)
        if len(rest) >= LINE:
            lines.append(rest)
            rest = b""
        if rest:
            self._partial[place] = rest
        return lines

    def rest(self, step: str, stream: int) -> list[bytes]:
        """Return what came after the last end of line, if anything did."""
        rest = self._partial.pop((step, stream), b"")
        _, shown = self._bars.pop((step, stream), (0.0, b""))
        return [rest] if rest and _state(rest) != shown else []

    def prefix(self, step: str) -> str:
        """Return what goes before each line of a step."""
        return f"{step:<{self.width}} | "

    def render(self, step: str, lines: list[bytes]) -> bytes:
        """Return the lines as they are written."""
        prefix = self.prefix(step).encode()
        return b"".join(prefix + _state(line) + b"\n" for line in lines)


def _state(line: bytes) -> bytes:
    """Return what a terminal shows of a line: what came after the last carriage return."""
    return line.rstrip(b"\r").rpartition(b"\r")[2]
