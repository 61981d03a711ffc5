"""Steps on Spark through the real entrypoint: on this machine, and on a standalone cluster of host processes."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import configs, running
from tests.support.frameworks import python_with
from tests.support.processes import MARK, marked
from tests.support.spark_cluster import FAST, Cluster, free_port, home_of, kill
from tests.support.waiting import wait_until

# One worker of pytest-xdist: two Sparks side by side would only wait for each other. The time is for a busy machine.
pytestmark = [pytest.mark.xdist_group("spark"), pytest.mark.timeout(900)]

JOBS = """
    import os, time
    from pathlib import Path
    import words

    def run(spark, inputs, outputs, least, twice=1):
        lines = spark.sparkContext.textFile(inputs["text"])
        counts = lines.flatMap(words.split).map(lambda word: (word, twice)).reduceByKey(lambda a, b: a + b)
        spark.createDataFrame(counts.filter(lambda pair: pair[1] >= least), ["word", "n"]).write.json(outputs["counts"])
        asked = {name: spark.conf.get(name) for name in ("spark.sql.shuffle.partitions", "spark.sql.ansi.enabled")}
        spark.stop()  # it is not ours to stop, and does no harm
        return {**asked, "key": os.environ["KEY"], "colour": os.environ["COLOUR"]}

    def check(number):
        if number == 2:
            raise ValueError("two is not welcome")
        return number

    def fails_in_the_driver(spark, inputs, outputs):
        return {"x": inputs["missing"]}

    def fails_in_a_task(spark, inputs, outputs):
        spark.sparkContext.parallelize([1, 2, 3], 1).map(check).collect()

    def fails_in_a_udf(spark, inputs, outputs):
        from pyspark.sql.functions import udf
        spark.range(3).select(udf(check)("id")).collect()

    def has_no_such_column(spark, inputs, outputs):
        spark.range(3).select("nope").collect()

    def has_no_such_word(spark, inputs, outputs):
        spark.sql("selec 1")

    def cannot_be_sent(spark, inputs, outputs):
        numbers = (number for number in [1, 2])
        spark.sparkContext.parallelize([1]).map(lambda number: next(numbers)).collect()

    def loses_its_worker(spark, inputs, outputs):
        spark.sparkContext.parallelize([1], 1).map(lambda number: os._exit(3)).collect()

    def sleep(number, folder, seconds):
        path = Path(folder) / str(os.getpid())
        path.touch()
        time.sleep(seconds)
        return number % 3, number

    def slow(spark, inputs, outputs, folder, seconds, tasks=1):
        numbers = spark.sparkContext.parallelize(range(tasks), tasks).map(lambda number: sleep(number, folder, seconds))
        return {"sums": sorted(numbers.reduceByKey(lambda a, b: a + b, 2).collect())}

    def shipped(spark, inputs, outputs):
        import extra
        def names(number):
            import extra, words
            return extra.NAME, words.__file__, os.getcwd()
        return {"names": spark.sparkContext.parallelize([1], 1).map(names).collect()[0], "here": os.getcwd()}

    if __name__ == "__main__":
        import sys
        from pyspark.sql import SparkSession
        spark = SparkSession.builder.getOrCreate()
        if len(sys.argv) > 2:
            slow(spark, {}, {}, sys.argv[1], float(sys.argv[2]))
        spark.stop()
        sys.exit(int(sys.argv[1]))
"""
WORDS = """
    def split(line):
        return line.split()
"""
POEM = "one fish two fish\nred fish blue fish\n"


@pytest.fixture(scope="module")
def python() -> str:
    """The step's Python, which has Spark."""
    return python_with("pyspark")


def step(function: str | None = None, /, _options: dict[str, Any] | None = None, **rest: Any) -> dict[str, Any]:
    block = {"type": "processing", "source": "spark", "args": _options or {}}
    return {**({"spark": f"jobs:{function}"} if function else {}), "backend": block, **rest}


def config(folder: Path, /, steps: dict[str, Any], **document: Any) -> Path:
    configs.write(folder / "code", {"lib/extra.py": 'NAME = "extra"\n'}, jobs_py=JOBS, words_py=WORDS)
    (folder / "poem.txt").write_text(POEM)
    return configs.config(folder, code=str(folder / "code"), retry={"limit": 0}, steps=steps, **document)


def environment(folder: Path, python: str, **env: str) -> dict[str, str]:
    return {"ZEN_RUNNER_PYTHON": python, "PYSPARK_PYTHON": python, MARK: str(folder), **FAST, **env}


def go(path: Path, python: str, *, expect: int = 0, name: str = "a", run: str = "r", **env: str) -> dict[str, Any]:
    """Run a step, and return its record in the store."""
    folder = path.parent
    arguments = ("--config", str(path), "--step", name, "--run-id", run)
    ended = running.run(*arguments, cwd=folder, timeout=300, env=environment(folder, python, **env))
    assert ended.code == expect, ended.errors
    assert marked(folder) == {}
    (record,) = running.results(folder, run, name)
    assert len(ended.stderr.rstrip(b"\n").rpartition(b"\n")[2]) <= 4096
    return record


def log(folder: Path, name: str = "a", run: str = "r") -> str:
    return "".join(path.read_text() for path in sorted((folder / f"store/runs/{run}/{name}/1/log").glob("*.txt")))


# -- on this machine ----------------------------------------------------------------------------------------------------------


def test_outputs_values_metrics_events_properties_and_secrets(tmp_path: Path, python: str) -> None:
    options = {"conf": {"spark.sql.shuffle.partitions": 3, "spark.sql.ansi.enabled": False}}
    one = step("run", options, inputs={"text": str(tmp_path / "poem.txt")}, args={"least": 2, "twice": 2}, outputs=["counts"])
    path = config(tmp_path, {"a": {**one, "env": {"COLOUR": "blue"}}}, secrets={"KEY": {"env": "TOLD"}})
    record = go(path, python, TOLD="a secret", HOSTNAME="leads.nowhere.invalid")
    assert record["values"] == {
        "spark.sql.shuffle.partitions": "3", "spark.sql.ansi.enabled": "false", "key": "a secret", "colour": "blue"
    }  # fmt: skip
    out = tmp_path / "store" / record["outputs"]["counts"]["key"]
    found = [json.loads(line) for part in out.glob("part-*") for line in part.read_text().splitlines()]
    assert {pair["word"]: pair["n"] for pair in found} == {"one": 2, "two": 2, "red": 2, "blue": 2, "fish": 8}
    assert record["engine"] == "spark"
    metrics = record["metrics"]
    assert metrics["tasks"] >= 3 and metrics["tasks_failed"] == 0 and metrics["executors"] == 1
    assert metrics["shuffle_write_bytes"] > 0 and metrics["input_bytes"] >= len(POEM)
    # Complete, as Spark's history server reads it: a log that ended has no `.inprogress`.
    names = [Path(key).name for key in record["event_log"]]
    assert [name.partition("_")[0] for name in names] == ["appstatus", "events"] and "inprogress" not in str(names)
    assert all((tmp_path / "store" / key).exists() for key in record["event_log"])
    assert "a secret" not in path.read_text() + json.dumps({**record, "values": {}})


@pytest.mark.parametrize(
    ("function", "said", "place"),
    [
        ("fails_in_the_driver", r"KeyError: 'missing'", 'return {"x": inputs["missing"]}'),
        ("fails_in_a_task", r"ValueError: two is not welcome", "raise ValueError"),
        ("fails_in_a_udf", r"ValueError: two is not welcome", "raise ValueError"),
        ("has_no_such_column", r"AnalysisException: \[UNRESOLVED_COLUMN\S*\] .*`nope`.*Did you mean.*", 'select("nope")'),
        ("has_no_such_word", r"ParseException: \[PARSE_SYNTAX_ERROR\] .*'selec'.*", "spark.sql("),
        ("cannot_be_sent", r".*cannot pickle 'generator' object; .*make it inside the function", "next(numbers)"),
        ("loses_its_worker", r"Py4JJavaError: .*Python worker exited unexpectedly.*", "os._exit(3)"),
    ],
    ids=lambda value: value if value.isidentifier() else "",
)
def test_a_failure_is_one_message_and_the_users_traceback(
    tmp_path: Path, python: str, function: str, said: str, place: str
) -> None:
    record = go(config(tmp_path, {"a": step(function)}), python, expect=1)
    assert record["class"] == "user"
    jobs = tmp_path / "code/jobs.py"
    lines = jobs.read_text().splitlines()
    at = next(number for number, line in enumerate(lines, 1) if place in line)
    assert re.fullmatch(rf"{said} \({re.escape(str(jobs))}:{at}\)", record["message"]), record["message"]
    assert len(record["message"]) < 700
    frames = re.findall(r'^  File "(.*?)", line (\d+)', record["traceback"], re.M)
    assert frames[-1] == (str(jobs), str(at)) and {file for file, _ in frames} == {str(jobs)}
    assert "\tat " not in record["traceback"] and record["traceback"].startswith("Traceback (most recent call last):\n")
    assert record["metrics"]["executors"] == 1 and len(record["event_log"]) == 2


def test_without_spark_or_a_jvm_the_image_that_has_them_is_named(tmp_path: Path, python: str) -> None:
    path = config(tmp_path, {"a": step("fails_in_the_driver"), "b": step(run=["x.py"])})
    bare = tmp_path / "bin"
    bare.mkdir()
    for name in ("sh", "bash", "env"):
        (bare / name).symlink_to(shutil.which(name) or "/bin/sh")
    for name in "ab":
        record = go(path, running.USER_PYTHON, expect=76, name=name, run="1")
        assert record["class"] == "placement" and "zen-runner:spark" in record["message"]
        assert "can't import pyspark" in record["message"]
        record = go(path, python, expect=76, name=name, run="2", PATH=str(bare))
        assert "no java is on PATH" in record["message"] and "zen-runner:spark" in record["message"]
        record = go(path, python, expect=76, name=name, run="3", JAVA_HOME="/no/such/jvm")
        assert "JAVA_HOME=/no/such/jvm has no bin/java" in record["message"] and "zen-runner:spark" in record["message"]


def test_a_jvm_that_does_not_start_is_told(tmp_path: Path, python: str) -> None:
    record = go(config(tmp_path, {"a": step("slow", {"conf": {"spark.driver.memory": "9000t"}})}), python, expect=78)
    assert "slow needs 'folder', 'seconds'" in record["message"]
    one = step("fails_in_the_driver", {"conf": {"spark.driver.memory": "9000t"}})
    record = go(config(tmp_path, {"a": one}), python, expect=1, run="2")
    assert record["class"] == "user" and "[JAVA_GATEWAY_EXITED]" in record["message"] and "more memory" in record["message"]


@pytest.mark.parametrize(
    ("example", "arguments", "said"),
    [
        ("pi", ["{args.n}"], r"^Pi is roughly 3\.1\d+$"),
        ("wordcount", ["{inputs.text}"], r"^fish: 4$"),
        ("als", ["{args.n}", "10", "2", "1"], r"^RMSE: \d\.\d+$"),
    ],
    ids=("pi", "wordcount", "als"),
)
def test_sparks_own_examples_run_unmodified(tmp_path: Path, python: str, example: str, arguments: list[str], said: str) -> None:
    program = str(home_of(python) / f"examples/src/main/python/{example}.py")
    one = step(run=[program, *arguments], args={"n": 4}, inputs={"text": str(tmp_path / "poem.txt")})
    record = go(config(tmp_path, {"a": one}), python)
    assert record["engine"] == "spark" and len(record["event_log"]) == 2
    assert re.search(said, log(tmp_path), re.M)


def test_a_failing_programs_status_is_the_steps(tmp_path: Path, python: str) -> None:
    record = go(config(tmp_path, {"a": step(run=["jobs.py", "7"])}), python, expect=7)
    assert (record["class"], record["status"], record["message"]) == ("user", 7, "exited with status 7")


@pytest.mark.parametrize(("kind", "end"), [("spark", "terminated"), ("run", "terminated"), ("spark", "timeout")])
def test_a_stopped_step_leaves_neither_python_nor_a_jvm(tmp_path: Path, python: str, kind: str, end: str) -> None:
    at_work = tmp_path / "at work"
    at_work.mkdir()
    one = step("slow", args={"folder": str(at_work), "seconds": 300})
    if kind == "run":
        one = step(run=["jobs.py", str(at_work), "300"])
    path = config(tmp_path, {"a": {**one, "grace_period": 5, **({"timeout": 60} if end == "timeout" else {})}})
    arguments = ("--config", str(path), "--step", "a", "--run-id", "r")
    process = running.start(*arguments, cwd=tmp_path, **environment(tmp_path, python))
    try:
        wait_until(lambda: list(at_work.iterdir()), subject="a task's start")
        processes = marked(tmp_path)
        assert int(next(at_work.iterdir()).name) in processes and any("java" in command for command in processes.values())
        if end == "terminated":
            process.send_signal(signal.SIGTERM)
        ended = running.end(process)
    finally:
        process.kill()
    assert (ended.code, ended.record["class"]) == {"timeout": (124, "timeout"), "terminated": (143, "terminated")}[end]
    assert marked(tmp_path) == {}


# -- masters that don't answer ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["spark://", "k8s://https://"])
@pytest.mark.parametrize("kind", ["spark", "run"])
def test_a_master_that_refuses_connections(tmp_path: Path, python: str, scheme: str, kind: str) -> None:
    master = f"{scheme}127.0.0.1:{free_port()}"
    options = {"master": master, "startup_timeout": 2}
    one = step("slow", options, args={"folder": "", "seconds": 0}) if kind == "spark" else step(None, options, run=["jobs.py"])
    record = go(config(tmp_path, {"a": one}), python, expect=69)
    assert record["class"] == "infra" and record["seconds"] < 20
    assert record["message"].startswith(f"no Spark master answers at {master} within 2 s (127.0.0.1:")
    assert "Connection refused" in record["message"]


def test_a_port_that_is_no_master(tmp_path: Path, python: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections, and says nothing
        options = {"master": f"spark://127.0.0.1:{server.getsockname()[1]}", "startup_timeout": 10}
        one = step("slow", options, args={"folder": "", "seconds": 0})
        record = go(config(tmp_path, {"a": one}), python, expect=69)
    assert record["class"] == "infra" and 10 <= record["seconds"] < 40
    assert record["message"].startswith("Spark did not start within 10 s")


# -- on a cluster -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    found = Cluster(python, tmp_path_factory.mktemp("cluster"))
    yield found
    found.close()


def on(cluster: Cluster, **options: Any) -> dict[str, Any]:
    """Return the backend's arguments for a cluster."""
    return {"master": cluster.url, "executor_memory": "512m", **options}


def test_a_master_without_workers(tmp_path: Path, python: str, cluster: Cluster) -> None:
    one = step("slow", on(cluster, idle_timeout=5), args={"folder": str(tmp_path), "seconds": 0})
    record = go(config(tmp_path, {"a": one}), python, expect=69)
    assert record["class"] == "infra"
    assert record["message"] == (
        f"no executor of {cluster.url} took a task for 5 s: does a worker live that has the cores and memory that each asks for?"
    )


def test_the_code_is_with_the_executors(tmp_path: Path, python: str, cluster: Cluster) -> None:
    cluster.have(1)
    record = go(config(tmp_path, {"a": step("shipped", on(cluster, py_files=["lib/extra.py"]))}), python)
    name, words, there = record["values"]["names"]
    assert name == "extra" and "code.zip" in words
    assert record["values"]["here"] == str(tmp_path / "code") and there != record["values"]["here"]
    assert record["metrics"]["executors"] == 1 and record["metrics"]["task_seconds"] > 0


def test_a_program_on_the_cluster(tmp_path: Path, python: str, cluster: Cluster) -> None:
    cluster.have(1)
    pi = home_of(python) / "examples/src/main/python/pi.py"
    go(config(tmp_path, {"a": step(None, on(cluster), run=[str(pi)])}), python)
    assert "Pi is roughly 3.1" in log(tmp_path)


def test_a_slow_task_is_not_idle(tmp_path: Path, python: str, cluster: Cluster) -> None:
    cluster.have(1)
    one = step("slow", on(cluster, idle_timeout=3), args={"folder": str(tmp_path), "seconds": 12})
    record = go(config(tmp_path, {"a": one}), python)
    assert record["values"] == {"sums": [[0, 0]]}


def test_a_worker_that_dies_costs_time_and_nothing_else(tmp_path: Path, python: str, cluster: Cluster) -> None:
    workers = cluster.have(2)
    at_work = tmp_path / "at work"
    at_work.mkdir()
    one = step("slow", on(cluster), args={"folder": str(at_work), "seconds": 3, "tasks": 8})
    path = config(tmp_path, {"a": one})
    process = running.start("--config", str(path), "--step", "a", "--run-id", "r", cwd=tmp_path, **environment(tmp_path, python))
    try:
        wait_until(lambda: len(list(at_work.iterdir())) == 2, subject="two executors at work")
        kill(workers[0])
        ended = running.end(process, timeout=150)
    finally:
        process.kill()
    assert ended.code == 0, ended.errors
    (record,) = running.results(tmp_path, "r", "a")
    assert record["values"] == {"sums": [[0, 0 + 3 + 6], [1, 1 + 4 + 7], [2, 2 + 5]]}
    assert record["metrics"]["executors_lost"] == 1 and record["metrics"]["executors"] == 2
    assert marked(tmp_path) == {}


def test_a_cluster_that_dies_ends_the_step(tmp_path: Path, python: str, cluster: Cluster) -> None:
    cluster.have(1)
    at_work = tmp_path / "at work"
    at_work.mkdir()
    one = step("slow", on(cluster, idle_timeout=6), args={"folder": str(at_work), "seconds": 300})
    path = config(tmp_path, {"a": one})
    process = running.start("--config", str(path), "--step", "a", "--run-id", "r", cwd=tmp_path, **environment(tmp_path, python))
    try:
        wait_until(lambda: list(at_work.iterdir()), subject="an executor at work")
        died = time.monotonic()
        cluster.close()
        ended = running.end(process)
        took = time.monotonic() - died
    finally:
        process.kill()
    assert (ended.code, ended.record["class"]) == (69, "infra"), ended.errors
    assert ended.record["message"].startswith(f"no executor of {cluster.url} took a task for 6 s")
    assert 4 <= took < 40  # the job is looked at once a second
    assert marked(tmp_path) == {}
