"""What one more step costs the beam orchestrator, against a bare ParDo of Beam and a step of the local orchestrator."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Figure, ratio, wall
from benchmarks.start import LAUNCH
from tests.support import frameworks

FEW, MANY = 10, 70
BARE = """
import sys
import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

class Step(beam.DoFn):
    def process(self, element, *parents):
        yield "".join(signal for signals in parents for signal in signals)

pipeline = beam.Pipeline(runner=FnApiRunner())
one = pipeline | beam.Impulse()
last = []
for number in range(int(sys.argv[1])):
    last = [beam.pvalue.AsIter(one | str(number) >> beam.ParDo(Step(), *last))]
pipeline.run().wait_until_finish()
"""


def chain(length: int, store: Path) -> str:
    """Return a config whose steps run one after the other."""
    steps = {f"s{number}": {"run": ["true"], "after": [f"s{number - 1}"] if number else []} for number in range(length)}
    return json.dumps({"version": 1, "name": "chain", "code": None, "store": str(store), "steps": steps})


def figures() -> Iterator[Figure]:
    """Measure the cost of a step as the difference between a long and a short chain, so that the start doesn't count."""
    python = frameworks.python_with("apache_beam")
    env = {**os.environ, "ZEN_RUNNER_PYTHON": python}
    with tempfile.TemporaryDirectory() as folder:
        for length in (FEW, MANY):
            Path(folder, f"{length}.json").write_text(chain(length, Path(folder, "runs")))

        def step(backend: str) -> float:
            short, long = (
                wall([*LAUNCH, "run", "--quiet", "--backend", backend, "--config", f"{length}.json"], env, folder)
                for length in (FEW, MANY)
            )
            return (long - short) / (MANY - FEW)

        def bare() -> float:
            short, long = (wall([python, "-c", BARE, str(length)]) for length in (FEW, MANY))
            return (long - short) / (MANY - FEW) + step("local")

        name = "one more step of the beam orchestrator, against a ParDo of bare Beam and a local step"
        yield ratio(name, lambda: step("beam"), bare, 1.5, rounds=3, warmup=1)
