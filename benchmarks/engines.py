"""What the contract costs a Beam and a Spark job: the example's two jobs on several years of flights, against the same run bare.

Needs the Python of ``make .venv-engines`` (or ``$ZEN_RUNNER_TEST_ENGINES_PYTHON``) and a JVM.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from backends.processing.direct import RUNNER
from benchmarks.measure import Figure, ratio, wall
from benchmarks.start import LAUNCH

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples/flights"
YEARS = {"beam": 6, "spark": 16}  # copies of the flights of 2013, for a job of 30 s and more on 2 cores
ROUNDS = 3

BARE = {
    "beam": f"""
import sys
import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from flights import on_beam
pipeline = beam.Pipeline(options=PipelineOptions(["--runner={RUNNER}"]))
on_beam.build(pipeline, {{"flights": sys.argv[1]}}, {{"delays": sys.argv[2]}}, 4)
pipeline.run().wait_until_finish()
""",
    "spark": """
import sys
from pyspark.sql import SparkSession
from flights import on_spark
spark = SparkSession.builder.master("local[*]").config("spark.ui.enabled", "false").getOrCreate()
on_spark.run(spark, {"flights": sys.argv[1]}, {"delays": sys.argv[2]}, 4)
spark.stop()
""",
}
STEP = {"beam": {"beam": "flights.on_beam:build"}, "spark": {"spark": "flights.on_spark:run"}}


def python() -> str:
    """Return the Python that has the engines.

    Raises:
        SystemExit: there is none.
    """
    found = os.environ.get("ZEN_RUNNER_TEST_ENGINES_PYTHON") or str(ROOT / ".venv-engines/bin/python")
    if not Path(found).exists():
        sys.exit(f"benchmarks engines: {found} does not exist; make .venv-engines makes it")
    return found


def years(folder: Path, source: Path, number: int) -> Path:
    """Return a directory with the months of ``source`` many times, as links."""
    made = folder / f"years-{number}"
    made.mkdir()
    for year in range(number):
        for month in source.iterdir():
            (made / f"{year:03d}-{month.name}").symlink_to(month)
    return made


def figures() -> Iterator[Figure]:
    """Measure each engine's job under us and bare, in turn."""
    interpreter = python()
    env = {**os.environ, "ZEN_RUNNER_PYTHON": interpreter, "PYTHONPATH": str(EXAMPLE)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "flights"
        ingest = f"import pathlib, flights.ingest; flights.ingest.run(pathlib.Path({str(source)!r}))"
        wall([interpreter, "-c", ingest], env=env)
        for engine, program in BARE.items():
            flights = years(folder, source, YEARS[engine])
            out = folder / "bare"
            step = {**STEP[engine], "inputs": {"flights": str(flights)}, "args": {"test_days": 4}, "outputs": ["delays"]}
            config = folder / f"{engine}.json"
            document = {"version": 1, "store": str(folder / "store"), "code": str(EXAMPLE), "steps": {"job": step}}
            config.write_text(json.dumps(document))

            def ours(config: Path = config) -> float:
                return wall([*LAUNCH, "run", "--config", str(config), "--step", "job"], env=env, cwd=name)

            def bare(program: str = program, flights: Path = flights, out: Path = out) -> float:
                shutil.rmtree(out, ignore_errors=True)
                return wall([interpreter, "-c", program, str(flights), str(out)], env=env, cwd=name)

            yield ratio(f"a {engine} job under us against the same job run bare", ours, bare, 1.05, rounds=ROUNDS, warmup=1)
