"""The examples, run as a stranger runs them: a copy of the directory, and the real command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import running

EXAMPLES = running.ROOT / "examples"


def copy_of(example: str, to: Path) -> Path:
    """Return a copy of an example without what runs of it left behind."""
    return Path(shutil.copytree(EXAMPLES / example, to, ignore=shutil.ignore_patterns("runs", "__pycache__", ".venv")))


def records(example: Path) -> dict[str, dict[str, Any]]:
    """Return the last result record of each step of the example's only run."""
    [run] = (example / "runs/runs").iterdir()
    found = {}
    for step in (path for path in run.iterdir() if path.is_dir()):
        last = max(step.glob("*/result.json"), key=lambda path: int(path.parent.name))
        found[step.name] = json.loads(last.read_text())
    return found


def digests(example: Path) -> dict[tuple[str, str], str]:
    """Return the digest of each output of the example's only run."""
    return {
        (step, name): output["digest"] for step, record in records(example).items() for name, output in record["outputs"].items()
    }


def artifact(example: Path, step: str, output: str) -> Path:
    [found] = (example / "runs/runs").glob(f"*/{step}/1/out/{output}")
    return found


def test_penguins_states_its_metric_and_makes_the_same_artifacts_anywhere(tmp_path: Path) -> None:
    found = []
    for place in (tmp_path / "here", tmp_path / "some where" / "else"):
        place.parent.mkdir(exist_ok=True)
        example = copy_of("penguins", place)
        ended = running.run("run", "--config", str(example / "pipeline.yaml"), cwd=tmp_path)
        assert ended.code == 0, ended.errors
        done = records(example)
        assert set(done) == {"ingest", "check", "clean", "train", "evaluate"}
        assert {record["class"] for record in done.values()} == {"success"}
        assert done["ingest"]["values"]["rows"] == 344
        assert done["clean"]["values"] == {"rows": 342, "dropped": 2, "test": 91}
        assert done["evaluate"]["values"]["accuracy"] == 0.989
        found.append(digests(example))
    assert set(found[0]) == {("ingest", "raw"), ("clean", "table"), ("train", "model"), ("evaluate", "report")}
    assert found[0] == found[1]

    report = artifact(example, "evaluate", "report")
    assert sorted(path.name for path in report.iterdir()) == ["metrics.json", "predictions.csv"]
    metrics = json.loads((report / "metrics.json").read_text())
    assert metrics == done["evaluate"]["values"]
    assert metrics["train_loss"] == done["train"]["values"]["loss"]
    assert f"accuracy {metrics['accuracy']}" in (example / "README.md").read_text()


@pytest.mark.engine
@pytest.mark.xdist_group("image")
def test_penguins_in_one_container_makes_the_artifacts_of_the_laptop(tmp_path: Path, cpu_image: str) -> None:
    outside, inside = copy_of("penguins", tmp_path / "outside"), copy_of("penguins", tmp_path / "inside")
    ended = running.run("run", "--config", str(outside / "pipeline.yaml"), cwd=tmp_path)
    assert ended.code == 0, ended.errors
    user = f"{os.getuid()}:{os.getgid()}"  # so that this test may remove what the container wrote
    command = ["docker", "run", "--rm", "--user", user, "-v", f"{inside}:/job", cpu_image, "--config", "/job/pipeline.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert digests(inside) == digests(outside)


def test_penguins_stops_at_a_table_that_is_not_penguins(tmp_path: Path) -> None:
    example = copy_of("penguins", tmp_path / "penguins")
    table = example / "data/penguins.csv"
    table.write_text(table.read_text().replace("39.1,18.7,181,3750", "391,18.7,181,3750", 1))
    ended = running.run("run", "--config", str(example / "pipeline.yaml"), cwd=tmp_path)
    assert ended.code == 1
    assert "line 2: bill_length_mm is 391, not within 30 to 62" in (ended.stdout + ended.stderr).decode()
    done = records(example)
    assert done["check"]["class"] == "user"
    assert "train" not in done and "evaluate" not in done


def test_penguins_can_be_set_to_fail_by_its_own_measure(tmp_path: Path) -> None:
    example = copy_of("penguins", tmp_path / "penguins")
    ended = running.run(
        *("run", "--config", str(example / "pipeline.yaml")), "--set", "steps.evaluate.args.at_least=0.999", cwd=tmp_path
    )
    assert ended.code == 1
    assert records(example)["evaluate"]["class"] == "user"
    assert "accuracy 0.989 is below 0.999" in (ended.stdout + ended.stderr).decode()


def test_the_shipped_table_is_the_published_one() -> None:
    """The README names the file's sha256; the digest is that of the file in the package palmerpenguins 0.1.6."""
    import hashlib

    data = (EXAMPLES / "penguins/data/penguins.csv").read_bytes()
    assert data.count(b"\n") == 1 + 344
    assert hashlib.sha256(data).hexdigest() in (EXAMPLES / "penguins/README.md").read_text()


def test_the_steps_of_the_examples_know_nothing_of_zen_runner() -> None:
    for source in EXAMPLES.rglob("*.py"):
        if not {".venv", "runs"} & set(source.parts):
            imports = [line for line in source.read_text().splitlines() if line.lstrip().startswith(("import ", "from "))]
            assert not [line for line in imports if "entrypoint" in line or "backends" in line or "zen" in line], source


@pytest.mark.slow
def test_digits_runs_under_the_users_own_environment(tmp_path: Path) -> None:
    example = copy_of("digits", tmp_path / "digits")
    subprocess.run([running.USER_PYTHON, "-m", "venv", str(example / ".venv")], check=True)
    python = str(example / ".venv/bin/python")
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", str(example / "requirements.txt")], check=True)
    ended = running.run("run", "--config", str(example / "pipeline.yaml"), cwd=tmp_path, ZEN_RUNNER_PYTHON=python)
    assert ended.code == 0, ended.errors
    # Two images of 450 either way: vector units of other machines add in another order.
    assert records(example)["evaluate"]["values"] == {"accuracy": pytest.approx(0.9711, abs=0.0045)}
    # None of it is in the runner's environment.
    bare = subprocess.run([sys.executable, "-c", "import sklearn"], capture_output=True, check=False)
    assert bare.returncode != 0
