"""Spark in our image: alone in a container, and driver, master and workers as containers of one cluster."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from tests.support import configs, running
from tests.support.spark_cluster import FAST
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("image"), pytest.mark.timeout(900)]

JOBS = """
    import os, time
    from pathlib import Path
    import words

    def sleep(number, folder):
        import socket
        Path(folder, "%s-%d" % (socket.gethostname(), number)).touch()
        time.sleep(3)
        return words.key(number), number

    def sums(spark, inputs, outputs, folder, tasks):
        numbers = spark.sparkContext.parallelize(range(tasks), tasks).map(lambda number: sleep(number, folder))
        found = numbers.reduceByKey(lambda a, b: a + b, 2)
        spark.createDataFrame(found, ["key", "sum"]).write.json(outputs["sums"])
        return {"sums": sorted(found.collect()), "user": os.geteuid()}

    def alone(spark, inputs, outputs):
        return {"sum": spark.sparkContext.parallelize(range(10), 2).map(words.key).sum()}
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env(timeout=60)
    yield client
    client.close()


def start(folder: Path, image: str, network: str, steps: dict[str, Any]) -> Any:
    """Start a run of steps in containers of an image."""
    configs.write(folder / "code", jobs_py=JOBS, words_py="def key(number):\n    return number % 3\n")
    one = {name: {"env": FAST, **step} for name, step in steps.items()}
    path = configs.config(folder, code=str(folder / "code"), image=image, retry={"limit": 0}, steps=one)
    block = {"type": "orchestrator", "source": "docker", "args": {"network": network, "max_parallel": 1}}
    arguments = ("run", "--config", str(path), "--run-id", "r", "--backend", json.dumps(block))
    return running.start(*arguments, cwd=folder)


def log(folder: Path, name: str) -> str:
    return "".join(path.read_text() for path in sorted((folder / f"store/runs/r/{name}/1/log").glob("*.txt")))


def test_a_container_needs_no_network(tmp_path: Path, spark_image: str, engine: docker.DockerClient) -> None:
    backend = {"type": "processing", "source": "spark", "args": {"master": "local[2]"}}
    examples = "/opt/spark/examples/src/main/python"
    (tmp_path / "poem.txt").write_text("one fish two fish\nred fish blue fish\n")
    steps = {
        "alone": {"spark": "jobs:alone", "backend": backend},
        "pi": {"run": [f"{examples}/pi.py", "{args.n}"], "args": {"n": 2}, "backend": backend},
        "words": {
            "run": [f"{examples}/wordcount.py", "{inputs.text}"],
            "inputs": {"text": str(tmp_path / "poem.txt")},
            "backend": backend,
        },
        "als": {"run": [f"{examples}/als.py", "10", "20", "3", "2"], "backend": backend},
    }
    ended = running.end(start(tmp_path, spark_image, "none", steps), timeout=800)
    assert ended.code == 0, ended.errors
    (record,) = running.results(tmp_path, "r", "alone")
    assert record["values"] == {"sum": 9} and len(record["event_log"]) == 2
    assert record["image"] == engine.images.get(spark_image).id
    assert re.search(r"^Pi is roughly 3\.1\d+$", log(tmp_path, "pi"), re.M)
    assert "fish: 4" in log(tmp_path, "words") and log(tmp_path, "als").count("RMSE:") == 2


class Cluster:
    """A master and workers, all containers of one image, that see the test's folder at its own path."""

    def __init__(self, image: str, folder: Path, workers: int) -> None:
        testcontainers_config.ryuk_disabled = True  # its image is in a registry
        self.image = image
        self._folder = folder
        self.network = Network().create()
        self.url = "spark://master:7077"
        self.containers: list[DockerContainer] = []
        self.start("master")
        wait_until(lambda: b"elected leader" in self.log(0), subject="a master")
        for number in range(1, workers + 1):
            self.start("worker", "--cores", "1", "--memory", "1g", self.url)
            wait_until(lambda number=number: b"Successfully registered" in self.log(number), subject="a worker")  # type: ignore[misc]

    def start(self, role: str, *arguments: str) -> None:
        container = DockerContainer(self.image).with_command([role, *arguments]).with_network(self.network)
        container.with_network_aliases(role).with_volume_mapping(str(self._folder), str(self._folder), "rw")
        # What the driver commits, executors have written: so both are the same user.
        container.with_kwargs(user=f"{os.geteuid()}:{os.getegid()}").with_env("JAVA_TOOL_OPTIONS", FAST["JAVA_TOOL_OPTIONS"])
        log4j = self._folder / "log4j2.properties"
        log4j.write_text(
            "rootLogger.level=info\nrootLogger.appenderRef.out.ref=out\nappender.out.type=Console\nappender.out.name=out\n"
        )
        container.with_env("SPARK_DAEMON_JAVA_OPTS", f"-Dlog4j2.configurationFile={log4j}")
        self.containers.append(container.start())

    def log(self, number: int) -> bytes:
        out, err = self.containers[number].get_logs()
        return bytes(out + err)

    def close(self) -> None:
        for container in self.containers:
            container.stop()
        self.network.remove()


@pytest.fixture
def cluster(spark_image: str, tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(spark_image, tmp_path, workers=2)
    yield found
    found.close()


def test_a_worker_killed_in_mid_job_and_then_all_of_them(tmp_path: Path, cluster: Cluster, engine: docker.DockerClient) -> None:
    at_work = tmp_path / "at work"
    at_work.mkdir()
    options = {"master": cluster.url, "executor_memory": "512m", "startup_timeout": 300, "idle_timeout": 30}
    step = {
        "spark": "jobs:sums",
        "args": {"folder": str(at_work), "tasks": 8},
        "outputs": ["sums"],
        "backend": {"type": "processing", "source": "spark", "args": options},
    }
    process = start(tmp_path, cluster.image, cluster.network.name, {"a": step, "b": {**step, "after": ["a"]}})

    def hosts(since: float = 0) -> set[str]:
        return {path.name.partition("-")[0] for path in at_work.iterdir() if path.stat().st_mtime > since}

    try:
        wait_until(lambda: len(hosts()) == 2, 300, "both workers at work")
        drivers = engine.containers.list(filters={"label": f"zen-runner.store={tmp_path / 'store'}"})
        # Driver, master and executors are one image.
        workers = [one.get_wrapped_container() for one in cluster.containers]
        assert {one.attrs["Image"] for one in drivers} == {one.attrs["Image"] for one in workers}
        cluster.containers[1].get_wrapped_container().kill(signal.SIGKILL)
        wait_until(lambda: running.results(tmp_path, "r", "a"), 300, "the step's end")
        (record,) = running.results(tmp_path, "r", "a")
        assert record["class"] == "success", record
        expected = [[0, 0 + 3 + 6], [1, 1 + 4 + 7], [2, 2 + 5]]
        assert record["values"] == {"sums": expected, "user": os.geteuid()}
        written = tmp_path / "store" / record["outputs"]["sums"]["key"]
        rows = [json.loads(line) for part in written.glob("part-*") for line in part.read_text().splitlines()]
        assert sorted([row["key"], row["sum"]] for row in rows) == expected
        assert record["metrics"]["executors"] == 2 and record["metrics"]["executors_lost"] == 1
        second = time.time()
        wait_until(lambda: hosts(second), 300, "the second step at work")
        for number in (0, 2):
            cluster.containers[number].get_wrapped_container().kill(signal.SIGKILL)
        ended = running.end(process, timeout=200)
    finally:
        process.kill()
    assert ended.code == 69, ended.errors
    (record,) = running.results(tmp_path, "r", "b")
    assert record["class"] == "infra" and record["message"].startswith(f"no executor of {cluster.url} took a task for 30 s")
    assert engine.containers.list(all=True, filters={"label": f"zen-runner.store={tmp_path / 'store'}"}) == []
