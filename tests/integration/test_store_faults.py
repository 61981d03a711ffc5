"""What the file system of a local store may answer, and what becomes of it: each error in each phase of a real attempt."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.configs import config
from tests.support.running import Ended, environment, results

# The entrypoint on a file system that fails: at the call that gives an object its name, or that opens the log.
FAULTY = """
import os, sys
from backends.store import records
from entrypoint.runtime import claimed
call, ending, number, times, is_done, publish_for, *arguments = sys.argv[1:]
left, real = int(times), getattr(os, call)
records.HEARTBEAT_EVERY = 0.1
claimed.PUBLISH_FOR = float(publish_for)
def fail(*args, **kwargs):
    global left
    path = args[0] if call == "open" else args[1]
    if not left or not str(path).endswith(ending):
        return real(*args, **kwargs)
    left -= 1
    if is_done == "yes":
        real(*args, **kwargs)
    raise OSError(int(number), os.strerror(int(number)), path)
setattr(os, call, fail)
from entrypoint.__main__ import main
sys.exit(main(arguments))
"""
ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES]
PHASES = {
    "claim": ("link", "/claim.json"),
    "heartbeat": ("rename", "/heartbeat.json"),
    "result": ("link", "/result.json"),
    "log": ("open", "/log/000001.txt"),
}
FOR_EVER = 10**6


def run_faulty(
    folder: Path, phase: str, number: int, times: int, *, is_done: bool = False, whole: bool = False, publish_for: float = 30
) -> Ended:
    """Run a step that leaves a line each time that it runs.

    Args:
        folder: where all of it lies.
        phase: what fails.
        number: the errno.
        times: how often.
        is_done: the call was carried out, and only its answer is wrong.
        whole: as a pipeline, in which the step may be tried once more; else as a container does.
        publish_for: seconds for which a result is offered to the store.
    """
    step: dict[str, Any] = {"run": ["sh", "-c", 'echo ran | tee -a "$0/ran"; sleep 0.4', str(folder)]}
    step["retry"] = {"limit": 1, "on": ["infra"], "backoff": 0.05}
    path = config(folder, steps={"s": step}, code=str(folder))
    arguments = ("run", "--config", str(path), "--run-id", "r") if whole else ("--config", str(path), "--step", "s")
    fault = (*PHASES[phase], str(number), str(times), "yes" if is_done else "no", str(publish_for))
    done = subprocess.run(
        [sys.executable, "-P", "-c", FAULTY, *fault, *arguments],
        cwd=folder,
        capture_output=True,
        env=environment(ZEN_RUNNER_RUN_ID="r"),
        timeout=60,
        check=False,
    )
    assert b"Traceback" not in done.stderr, done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)


def runs(folder: Path) -> int:
    path = folder / "ran"
    return len(path.read_text().split()) if path.exists() else 0


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize(
    ("phase", "code", "kind", "ran"),
    [("claim", 69, "infra", 0), ("heartbeat", 0, "success", 1), ("result", 69, "infra", 1), ("log", 0, "success", 1)],
)
def test_an_error_that_stays(tmp_path: Path, phase: str, code: int, kind: str, ran: int, number: int) -> None:
    ended = run_faulty(tmp_path, phase, number, FOR_EVER, publish_for=0.6)
    assert (ended.code, ended.record["class"], runs(tmp_path)) == (code, kind, ran), ended.errors
    if kind == "success":
        assert ("log_lost" in results(tmp_path, "r", "s")[0]) == (phase == "log")
    again = run_faulty(tmp_path, "log", number, 0)  # the disk is whole again
    assert (again.code, again.record["class"]) == (0, "success"), again.errors


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("phase", PHASES)
def test_an_error_that_passes(tmp_path: Path, phase: str, is_done: bool, number: int) -> None:
    ended = run_faulty(tmp_path, phase, number, 1, is_done=is_done)
    if phase == "claim" and not is_done:
        assert (ended.code, ended.record["class"], runs(tmp_path)) == (69, "infra", 0)
        ended = run_faulty(tmp_path, phase, number, 0)
    assert (ended.code, ended.record["class"], ended.record["attempt"]) == (0, "success", 1), ended.errors
    assert runs(tmp_path) == 1


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize(("phase", "times"), [("claim", 1), ("result", 2)])
def test_a_run_tries_again_and_finds_its_own_attempt(tmp_path: Path, phase: str, times: int, number: int) -> None:
    ended = run_faulty(tmp_path, phase, number, times, whole=True, publish_for=0.6)
    assert ended.code == 0, ended.errors
    assert runs(tmp_path) == 1  # what was finished is kept, though its result could not be stored at first
    assert [record["class"] for record in results(tmp_path, "r", "s")] == ["success"]
    assert not list((tmp_path / "store/runs/r/s/1").glob("tmp*"))
