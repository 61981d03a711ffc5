"""Paired timings: two things in turn, so that a machine whose speed drifts slows both."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One line of the report.

    Args:
        name: what was measured.
        value: the figure.
        unit: ``x`` for a ratio, else MB, ms, …
        budget: the most it may be, in the same unit.
        detail: medians behind a ratio, and how often.
    """

    name: str
    value: float
    unit: str
    budget: float
    detail: str

    @property
    def kept(self) -> bool:
        return self.value <= self.budget


def wall(argv: Sequence[str], env: Mapping[str, str] | None = None, cwd: str | None = None) -> float:
    """Return the seconds that a command takes from its start to its end."""
    begin = time.perf_counter()
    subprocess.run(argv, env=env, cwd=cwd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin


def first_byte(argv: Sequence[str], env: Mapping[str, str] | None = None, cwd: str | None = None) -> float:
    """Return the seconds from a command's start to the first byte on its stdout."""
    begin = time.perf_counter()
    with subprocess.Popen(argv, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        byte = process.stdout.read(1)
        seconds = time.perf_counter() - begin
        process.stdout.read()
    if not byte or process.returncode:
        raise RuntimeError(f"{argv} printed nothing or failed with {process.returncode}")
    return seconds


def ratio(name: str, ours: Callable[[], float], base: Callable[[], float], budget: float, rounds: int, warmup: int = 2) -> Figure:
    """Measure both in turn and return the median of the pairwise ratios.

    Args:
        name: what is measured.
        ours: returns seconds.
        base: returns the seconds it is compared to.
        budget: the most that the ratio may be.
        rounds: how many pairs count.
        warmup: how many pairs before them do not.
    """
    pairs = [(base(), ours()) for _ in range(rounds + warmup)][warmup:]
    ratios = [own / other for other, own in pairs]
    low, high = statistics.quantiles(ratios, n=10)[0], statistics.quantiles(ratios, n=10)[-1]
    own, other = (statistics.median(pair[side] for pair in pairs) * 1000 for side in (1, 0))
    detail = f"{own:.1f} ms to {other:.1f} ms, {rounds} pairs, 10 % to 90 %: {low:.2f} to {high:.2f}"
    return Figure(name, statistics.median(ratios), "x", budget, detail)
