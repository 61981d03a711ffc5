"""What one more step costs the local orchestrator, against a bare ``subprocess.run([python, "-c", "pass"])``."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Figure, ratio, wall
from benchmarks.start import LAUNCH

PYTHON = sys.executable
FEW, MANY = 5, 45


def chain(length: int, store: Path) -> str:
    """Return a config whose steps run one after the other."""
    steps = {
        f"s{number}": {"run": [PYTHON, "-c", "pass"], "after": [f"s{number - 1}"] if number else []} for number in range(length)
    }
    return json.dumps({"version": 1, "store": str(store), "steps": steps, "backend": "local"})


def figures() -> Iterator[Figure]:
    """Measure the cost of a step as the difference between a long and a short chain, so that the start doesn't count."""
    with tempfile.TemporaryDirectory() as folder:
        for length in (FEW, MANY):
            Path(folder, f"{length}.json").write_text(chain(length, Path(folder, "runs")))

        def step() -> float:
            short, long = (
                wall([*LAUNCH, "run", "--quiet", "--max-parallel", "1", "--config", f"{length}.json"], cwd=folder)
                for length in (FEW, MANY)
            )
            return (long - short) / (MANY - FEW)

        def bare() -> float:
            return sum(wall([PYTHON, "-c", "pass"]) for _ in range(10)) / 10

        yield ratio("one more local step, a process each, against a bare subprocess", step, bare, 2, rounds=9, warmup=1)
