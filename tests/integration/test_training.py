"""One heavy step elsewhere, for real: penguins on this machine, with `train` in a container of Docker, and on Batch by moto."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from backends.store import open_store, records
from backends.store.logs import log_chunks
from tests.emulators.moto_batch import BUCKET, QUEUE, MotoBatch, moto_batch
from tests.support import configs, running
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("image"), pytest.mark.usefixtures("cpu_image")]

EXAMPLE = running.ROOT / "examples" / "penguins"
PREFIXES = itertools.count()
PROMPT = {"limit": 1, "on": ["oom", "user"], "backoff": 0.01, "memory_factor": 4}
HUNGRY = "import os; print('begun', flush=True); b = bytearray(150 << 20); open(os.environ['ZEN_OUTPUT_SIZE'], 'w').write('150')"


class Place:
    """A platform, and a store that it reaches.

    Args:
        folder: the test's.
        name: ``docker`` or ``batch``.
        server: of Batch.
    """

    def __init__(self, folder: Path, name: str, server: MotoBatch | None) -> None:
        self.folder = folder
        self.name = name
        self.server = server
        self.environ = {} if server is None else server.environment()
        self.store = str(folder / "store") if server is None else f"s3://{BUCKET}/training-{next(PREFIXES)}"
        args = {"network": "none"} if server is None else {"queue": QUEUE}
        self.block = {"type": "training", "source": name, "args": args}

    def write(self, **step: Any) -> None:
        train = {"backend": self.block, "retry": {"limit": 0}, "grace_period": 5, **step}
        configs.config(self.folder, name="training", code=None, store=self.store, steps={"train": train})

    def argv(self, *more: str) -> list[str]:
        return ["run", "--config", str(self.folder / "config.json"), "--run-id", "r", *more]

    def run(self, *more: str) -> running.Ended:
        return running.run(*self.argv(*more), cwd=self.folder, timeout=200, env=self.environ)

    def start(self) -> subprocess.Popen[bytes]:
        return running.start(*self.argv(), cwd=self.folder, **self.environ)

    def results(self) -> list[records.Record]:
        store = open_store(self.store)
        found = [records.result(store, "r", "train", number) for number in records.attempts(store, "r", "train")]
        return [record for record in found if record is not None]

    def log(self) -> bytes:
        return b"".join(log_chunks(open_store(self.store), "r", "train"))

    def containers(self) -> list[Any]:
        """Return all containers of this test's jobs, ended ones too."""
        if self.server is not None:
            return list(self.server.containers())
        client = docker.from_env(timeout=60)
        try:
            found = client.containers.list(all=True, filters={"label": f"zen-runner.store={self.store}"}, ignore_removed=True)
            return list(found)
        finally:
            client.close()


@pytest.fixture(scope="module")
def aws() -> Iterator[MotoBatch]:
    with moto_batch() as server:
        yield server


@pytest.fixture(params=["docker", "batch"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    server = request.getfixturevalue("aws") if request.param == "batch" else None
    place = Place(tmp_path, request.param, server)
    for name, value in place.environ.items():
        monkeypatch.setenv(name, value)
    yield place
    wait_until(lambda: place.containers() == [], 60)  # nothing is left, whatever became of whoever waited


def test_penguins_with_its_training_elsewhere(place: Place) -> None:
    digests: dict[str, dict[str, str]] = {}
    for name in ("local", place.name):
        example = place.folder / name
        shutil.copytree(EXAMPLE, example, ignore=shutil.ignore_patterns("runs", "__pycache__"))
        store = str(example / "store") if name == "local" else place.store
        where = [] if name == "local" else ["--set", f"steps.train.backend={json.dumps(place.block)}"]
        ended = running.run(
            "run", "--config", str(example / "pipeline.yaml"), "--run-id", "r", "--set", f"store={store}", *where,
            cwd=place.folder, timeout=200, env=place.environ,
        )  # fmt: skip
        assert ended.code == 0, ended.errors
        found = records.results(open_store(store), "r")
        digests[name] = {
            f"{step}.{key}": out["digest"] for step, record in found.items() for key, out in record["outputs"].items()
        }
    assert len(digests["local"]) == 4 and digests["local"] == digests[place.name]
    elsewhere = [step for step, record in found.items() if "JOB-train" in record["platform"].get("attempt", "")]
    assert elsewhere == ["train"]


def test_a_killed_waiter_is_followed_by_one_that_finds_the_job(place: Place) -> None:
    place.write(run=["sh", "-c", "echo begun; sleep 8; echo done"])
    process = place.start()
    wait_until(lambda: b"begun" in place.log(), 60)
    os.killpg(process.pid, signal.SIGKILL)
    running.end(process)
    ended = place.run()
    assert ended.code == 0, ended.errors
    assert "waiting for it" in ended.errors
    assert [record["class"] for record in place.results()] == ["success"]
    assert place.log() == b"begun\ndone\n" and b"done" in ended.stdout


def test_a_cancelled_run_ends_the_job(place: Place) -> None:
    place.write(run=["sh", "-c", "echo begun; exec sleep 300"])
    process = place.start()
    wait_until(lambda: b"begun" in place.log(), 60)
    process.send_signal(signal.SIGTERM)
    ended = running.end(process)
    assert ended.code == 143, ended.errors
    assert [record["class"] for record in place.results()] == ["terminated"]


def test_a_class_that_is_retried_is_another_job(place: Place) -> None:
    place.write(run=["sh", "-c", 'exit "$(( ZEN_ATTEMPT == 1 ? 9 : 0 ))"'], retry=PROMPT)
    ended = place.run()
    assert ended.code == 0, ended.errors
    assert [record["class"] for record in place.results()] == ["user", "success"]


def test_more_memory_after_the_out_of_memory_killer(place: Place) -> None:
    place.write(run=["python3", "-c", HUNGRY], outputs=["size"], resources={"memory": "64Mi"}, retry=PROMPT)
    ended = place.run()
    assert ended.code == 0, ended.errors
    assert [record["class"] for record in place.results()] == ["oom", "success"]


def test_an_image_that_is_not_there_is_said(place: Place) -> None:
    place.write(run=["true"], image="zen-runner:no-such-tag")
    ended = place.run()
    assert ended.code in (69, 78), ended.errors
    assert "no-such-tag" in ended.record["message"] or "CannotPull" in ended.record["message"]
