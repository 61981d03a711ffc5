"""The examples of docs/backends.md, taken from the page as they are printed: linted, type-checked, held to the contract, and run.

The page's package ``my_backends`` is installed for these tests alone, in a folder with the metadata that pip would write. Slurm
and ssh consist of this machine: `tests/emulators/slurm.py` and a shell script.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from backends.base import OrchestratorBaseBackend
from tests.contract.suite import DrivenSubmission, MachineSubmission, ParallelContract, PipelineContract
from tests.emulators import slurm
from tests.support import configs, running
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from backends.store.records import Handle

PAGE = (running.ROOT / "docs" / "backends.md").read_text()
EXAMPLES = dict(re.findall(r"^```python my_backends/(\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
ENTRY_POINTS = "".join(re.findall(r'^```toml\n\[project\.entry-points\."(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL))
# ssh, to a machine that is this one: -o BatchMode=yes HOST COMMAND…
SSH = """#!/bin/sh
shift 2
[ "$1" = nowhere ] && { echo "ssh: Could not resolve hostname nowhere" >&2; exit 255; }
shift
cd "$FAKE_HOME" && exec setsid "$@"
"""


def install(folder: Path) -> Path:
    """Put the page's package into a folder, and beside it the programs that it calls; return the folder."""
    package, metadata, programs = folder / "my_backends", folder / "my_backends-1.dist-info", folder / "bin"
    for path in (package, metadata, programs, folder / "home"):
        path.mkdir()
    configs.write(package, {"__init__.py": "", **EXAMPLES})
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-backends\nVersion: 1\n")
    group, _, lines = ENTRY_POINTS.partition('"]\n')
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{lines.replace(chr(34), '')}")
    for name in ("sbatch", "sacct", "scancel"):
        (programs / name).write_text(f"#!{sys.executable} -S\n" + Path(slurm.__file__).read_text())
    (programs / "ssh").write_text(SSH)
    (programs / "zen-runner").write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m entrypoint "$@"\n')
    for path in programs.iterdir():
        path.chmod(0o755)
    return folder


HOME = install(Path(tempfile.mkdtemp(prefix="zen-runner-page-")))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
sys.path.insert(0, str(HOME))
try:
    Printed: Any = importlib.import_module("my_backends.test_slurm").TestSlurm
    Boxes: type[OrchestratorBaseBackend] = importlib.import_module("my_backends.boxes").OrchestratorBoxesBackend
    Ssh: type[OrchestratorBaseBackend] = importlib.import_module("my_backends.ssh").OrchestratorSshBackend
finally:
    sys.path.remove(str(HOME))
WHERE = {"PYTHONPATH": str(HOME), "FAKE_SLURM": str(HOME / "cluster"), "FAKE_HOME": str(HOME / "home")}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the page's package for one test."""
    monkeypatch.syspath_prepend(str(HOME))
    monkeypatch.setenv("PATH", f"{HOME / 'bin'}:{os.environ['PATH']}")
    for name, value in WHERE.items():
        monkeypatch.setenv(name, value)


class TestSlurm(Printed):  # type: ignore[misc]
    """The page's own contract test, where its package and its cluster are."""

    environ = WHERE
    lingers = 5.0  # a job says that it has ended just before it ends


class TestBoxes(PipelineContract, ParallelContract, DrivenSubmission):
    cls = Boxes
    source = "my_backends.boxes:OrchestratorBoxesBackend"
    environ = WHERE
    lingers = 5.0

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(self, "options", {"folder": str(tmp_path / "boxes"), "max_parallel": 2})

    def end_what_runs(self, config: Path) -> None:
        for box in (config.parent / "boxes").glob("*/box.json"):
            slurm.kill_session(json.loads(box.read_text())["process"]["pid"])


class TestSsh(PipelineContract, ParallelContract, MachineSubmission):
    cls = Ssh
    source = "my_backends.ssh:OrchestratorSshBackend"
    environ = WHERE
    lingers = 5.0
    options = {"host": "there", "shared": ["/"]}  # noqa: RUF012 - a ClassVar in the base

    def kill_the_machine(self, handle: Handle) -> None:
        slurm.kill_session(int((HOME / "home" / ".zen-runner" / handle["state"]["machine"] / "pid").read_text()))

    def end_what_runs(self, config: Path) -> None:
        handle = json.loads((config.parent / "store/runs/r/handle.json").read_text())
        self.kill_the_machine(handle)
        self.wait_until(lambda: Ssh(**self.options).status(handle)["state"] == "failed")


SHAPES = {
    "slurm": ("slurm", {"partition": "short", "shared": ["{folder}"], "pace": 0.1, "command": ["zen-runner"]}),
    "boxes": ("my_backends.boxes:OrchestratorBoxesBackend", {"folder": "{folder}/boxes"}),
    "ssh": ("my_backends.ssh:OrchestratorSshBackend", {"host": "there", "shared": ["{folder}"]}),
}


def block(shape: str, folder: Path, **more: Any) -> dict[str, Any]:
    """Return the block of one of the page's backends, for a pipeline in a folder."""
    source, args = SHAPES[shape]
    placed: dict[str, Any] = json.loads(json.dumps(args).replace("{folder}", str(folder)))
    return {"type": "orchestrator", "source": source, "args": {**placed, **more}}


def write(folder: Path, steps: dict[str, Any], backend: dict[str, Any]) -> str:
    """Write a pipeline and return its path."""
    return str(configs.config(folder, name="page", code=None, steps=steps, backend=backend))


@pytest.mark.parametrize("shape", SHAPES)
def test_an_example_runs_a_pipeline(shape: str, tmp_path: Path) -> None:
    steps = {
        "make": {"run": ["sh", "-c", 'echo "it works" > "$1"', "sh", "{outputs.text}"], "outputs": ["text"]},
        "copy": {
            "run": ["sh", "-c", 'cat "$ZEN_INPUT_TEXT"; [ "$ZEN_ATTEMPT" = 2 ]'],
            "inputs": {"text": "make.text"},
            "retry": {"limit": 2, "on": ["user"], "backoff": 0.01},
        },
        "bad": {"run": ["sh", "-c", "exit 7"], "after": ["copy"]},
        "never": {"run": ["true"], "after": ["bad"]},
    }
    config = write(tmp_path, steps, block(shape, tmp_path))
    ended = running.run("submit", "--wait", "--run-id", "r", "--config", config, cwd=tmp_path, env=WHERE)
    assert ended.code == 7, ended.errors
    ends = {step: [record["class"] for record in running.results(tmp_path, "r", step)] for step in steps}
    assert ends == {"make": ["success"], "copy": ["user", "success"], "bad": ["user"], "never": []}
    logs = running.run("logs", "--store", "store", "r", "--step", "copy", cwd=tmp_path, env=WHERE)
    assert logs.stdout.endswith(b"it works\n")
    status = running.run("status", "--store", "store", "r", cwd=tmp_path, env=WHERE)
    assert b"never  skipped" in status.stdout


@pytest.mark.parametrize("shape", SHAPES)
def test_an_example_ends_a_cancelled_run(shape: str, tmp_path: Path) -> None:
    long = {"run": ["sh", "-c", "echo begun; sleep 300 & wait"], "grace_period": 5}
    config = write(tmp_path, {"long": long, "never": {"run": ["true"], "after": ["long"]}}, block(shape, tmp_path))
    process = running.start("submit", "--wait", "--run-id", "r", "--config", config, cwd=tmp_path, **WHERE)
    try:
        wait_until(lambda: list((tmp_path / "store/runs/r/long/1/log").glob("*.txt")))
    finally:
        process.terminate()
        ended = running.end(process)
    assert ended.code == 143, ended.errors
    assert [record["class"] for record in running.results(tmp_path, "r", "long")] == ["terminated"]


def test_a_refusal_of_slurm_leaves_no_run(tmp_path: Path) -> None:
    config = write(tmp_path, {"a": {"run": ["true"]}}, block("slurm", tmp_path, partition="nowhere"))
    ended = running.run("submit", "--run-id", "r", "--config", config, cwd=tmp_path, env=WHERE)
    assert ended.code == 78 and "Slurm: sbatch: sbatch: error: Batch job submission failed: Invalid partition" in ended.errors
    assert not (tmp_path / "store" / "runs" / "r" / "handle.json").exists()


def test_a_box_of_a_killed_client_is_taken_over(tmp_path: Path) -> None:
    steps = {"long": {"run": ["sh", "-c", f"echo begun; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"]}}
    backend = block("boxes", tmp_path)
    arguments = ("run", "--run-id", "r", "--config", write(tmp_path, steps, backend), "--backend", json.dumps(backend))
    killed = running.start(*arguments, cwd=tmp_path, **WHERE)
    wait_until(lambda: list((tmp_path / "store/runs/r/long/1/log").glob("*.txt")))
    killed.kill()
    running.end(killed)
    process = running.start(*arguments, cwd=tmp_path, **WHERE)
    (tmp_path / "go").touch()
    ended = running.end(process)
    assert ended.code == 0, ended.errors
    assert [record["class"] for record in running.results(tmp_path, "r", "long")] == ["success"]
    assert list((tmp_path / "boxes").iterdir()) == []


@pytest.mark.parametrize("command", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy", "--strict"]], ids=" ".join)
def test_the_examples_pass_our_own_lint(command: list[str]) -> None:
    program, *words = command
    option = "--config-file" if program == "mypy" else "--config"
    ended = subprocess.run(
        [sys.executable, "-m", program, *words, option, "pyproject.toml", str(HOME / "my_backends")],
        cwd=running.ROOT,
        env={**os.environ, "MYPYPATH": f"{running.ROOT}:{HOME}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
