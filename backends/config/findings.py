"""What is wrong with a config, where, and what could have been meant."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice
from typing import NoReturn

from backends.config.bounds import MAX_BYTES, MAX_PROBLEMS
from backends.config.builder import Finding
from backends.config.document import Document
from backends.config.paths import Path, Place, dotted
from backends.errors import Problem
from backends.text import did_you_mean

_MOST_COMPARISONS = 200_000  # for did-you-mean; past that a hint isn't worth the wait


class Enough(Exception):
    """What was found is enough to refuse the config."""


class Findings:
    """What the passes over one config find.

    Args:
        rows: what was wrong when the document was read: path, message and place of each.

    Attributes:
        rows: path, message and, where it is known already, the place of every problem.
        options: the paths that an option of the command line set, with the option's name.
    """

    def __init__(self, rows: Iterable[Finding] = ()) -> None:
        self.rows: list[tuple[Path, str, Place | None]] = list(rows)
        self.options: dict[Path, str] = {}
        self._dropped: set[Path] = set()
        self._touched: set[Path] = set()  # what was dropped, and everything above it
        self._comparisons = 0
        self._interpolated = 0

    def report(self, path: Path, message: str) -> None:
        """Note a problem, unless the value there was dropped for another."""
        if not any(path[:n] in self._dropped for n in range(1, len(path) + 1)):
            self._note(path, message)

    def refuse(self, path: Path, message: str) -> None:
        """Note a problem of a value that can't be used at all, and drop it."""
        self._note(path, message)
        self.drop(path)

    def stop(self, path: Path, message: str) -> NoReturn:
        """Note a problem after which looking further would take too long.

        Raises:
            Enough: always.
        """
        self.rows.append((path, message, None))
        raise Enough

    def _note(self, path: Path, message: str) -> None:
        self.rows.append((path, message, None))
        if len(self.rows) >= MAX_PROBLEMS:
            raise Enough

    def interpolate(self, value: str, path: Path) -> str:
        """Return what stands in the place of an ``${env:NAME}``, as long as all of them together are within a bound."""
        self._interpolated += len(value)
        if self._interpolated > MAX_BYTES:
            self.stop(path, f"with this one, ${{env:…}} stands for more than {MAX_BYTES >> 20} MiB, which no config has")
        return value

    def drop(self, path: Path) -> None:
        """Note that a value is not there for the passes to come, so that nothing is said about it or for want of it."""
        self._dropped.add(path)
        self._touched.update(path[:n] for n in range(len(path) + 1))

    def is_dropped(self, *path: str | int) -> bool:
        """Return whether something at, above or below a path was dropped, so that what follows from it is no news."""
        return path in self._touched or any(path[:n] in self._dropped for n in range(len(path)))

    def did_you_mean(self, word: str, candidates: Collection[str], but: str = "") -> str:
        """Return `` (did you mean 'x'?)`` or an empty string, within a bound for the whole document.

        Args:
            word: what was written.
            candidates: what could have been meant.
            but: one of these that could not.
        """
        self._comparisons += len(candidates)
        if self._comparisons > _MOST_COMPARISONS or len(word) > 100:
            return ""
        return did_you_mean(word, [name for name in candidates if name != but])

    def hint(self, word: str, candidates: Collection[str], otherwise: str, but: str = "") -> str:
        """Return `` (did you mean 'x'?)``, or else the first candidates after the words ``otherwise``."""
        return self.did_you_mean(word, candidates, but) or f"; {otherwise} {_listed(candidates, but)}"

    def problems(self, doc: Document | None) -> list[Problem]:
        """Return everything once, with its place, in the document's order; what options set comes last.

        Args:
            doc: where the config was read from; None for plain data, which has no places.
        """
        places = doc.places(path for path, _, place in self.rows if place is None) if doc else {}
        rows = []
        for path, message, place in self.rows:
            option = self._option(path) if place is None else None
            at = place or places.get(path, (0, 0))
            origin = option or (f"{doc.origin}:{at[0]}" if doc else "")
            rows.append((option is not None, at, Problem(origin, dotted(path), message)))
        rows.sort(key=lambda row: row[:2])
        return list({str(problem): problem for _, _, problem in rows}.values())

    def _option(self, path: Path) -> str | None:
        """Return the option that set what is at a path, or None."""
        if not self.options:
            return None
        return next((self.options[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.options), None)


def _listed(names: Iterable[str], but: str) -> str:
    first = list(islice((name for name in names if name != but), 11))
    return ", ".join(first[:10]) + (", …" if len(first) > 10 else "") or "none"
