"""The command lines of Spark's roles and of Beam's boot program, and what an image without them says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from backends.errors import PlacementError, UsageError
from entrypoint.runtime import workers
from tests.support import running

SPARK = {"SPARK_HOME": "/opt/spark", "JAVA_HOME": "/jre"}
EXECUTOR = {
    **SPARK,
    "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@driver:7078",
    "SPARK_EXECUTOR_ID": "3",
    "SPARK_EXECUTOR_CORES": "2",
    "SPARK_EXECUTOR_MEMORY": "1408m",
    "SPARK_APPLICATION_ID": "spark-1",
    "SPARK_EXECUTOR_POD_IP": "10.0.0.7",
    "SPARK_EXECUTOR_POD_NAME": "pod-3",
    "SPARK_RESOURCE_PROFILE_ID": "0",
}


def test_a_driver_submits_where_it_is() -> None:
    words = ["driver", "--properties-file", "/opt/spark/conf/spark.properties", "local:///job/app.py", "a b"]
    assert workers.argv({**SPARK, "SPARK_DRIVER_BIND_ADDRESS": "10.0.0.9"}, words) == [
        "/opt/spark/bin/spark-submit",
        *("--conf", "spark.driver.bindAddress=10.0.0.9"),
        *("--deploy-mode", "client"),
        *words[1:],
    ]
    assert workers.argv(SPARK, words)[1] == "--deploy-mode"


def test_an_executor_is_told_what_its_pod_was_told() -> None:
    assert workers.argv(EXECUTOR, ["executor"]) == [
        "/jre/bin/java",
        *("-Xms1408m", "-Xmx1408m"),
        *("-cp", "/opt/spark/conf:/opt/spark/jars/*"),
        "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend",
        *("--driver-url", "spark://CoarseGrainedScheduler@driver:7078", "--executor-id", "3", "--cores", "2"),
        *("--app-id", "spark-1", "--hostname", "10.0.0.7", "--resourceProfileId", "0", "--podName", "pod-3"),
    ]


def test_java_options_keep_their_order_and_their_spaces() -> None:
    options = {
        "SPARK_JAVA_OPT_10": "-Dk=last",
        "SPARK_JAVA_OPT_2": "-Da=b c",
        "SPARK_JAVA_OPT_0": "-ea",
        "SPARK_JAVA_OPT_X": "no",
    }
    assert workers.argv({**EXECUTOR, **options}, ["executor"])[1:5] == ["-ea", "-Da=b c", "-Dk=last", "-Xms1408m"]


def test_an_executors_class_path_has_what_the_variables_add() -> None:
    places = {
        "SPARK_CONF_DIR": "/conf",
        "HADOOP_CONF_DIR": "/hadoop",
        "SPARK_CLASSPATH": "/one.jar",
        "SPARK_EXTRA_CLASSPATH": "/two.jar",
        "SPARK_DIST_CLASSPATH": "/three.jar",
    }
    line = workers.argv({**EXECUTOR, **places}, ["executor"])
    assert line[line.index("-cp") + 1] == "/conf:/hadoop:/one.jar:/opt/spark/jars/*:/two.jar:/three.jar"


@pytest.mark.parametrize("name", [*workers.EXECUTOR.values(), workers.EXECUTOR_MEMORY])
def test_an_executor_that_nobody_told_says_what_is_missing(name: str) -> None:
    with pytest.raises(UsageError, match=f"^executor: {name} not set"):
        workers.argv({**EXECUTOR, name: ""}, ["executor"])


def test_an_executor_without_java_home_takes_the_java_on_path() -> None:
    assert workers.argv({**EXECUTOR, "JAVA_HOME": ""}, ["executor"])[0] == "java"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["master"], ["org.apache.spark.deploy.master.Master"]),
        (["master", "--port", "7000"], ["org.apache.spark.deploy.master.Master", "--port", "7000"]),
        (["worker", "spark://m:7077", "-c", "1"], ["org.apache.spark.deploy.worker.Worker", "spark://m:7077", "-c", "1"]),
    ],
)
def test_a_standalone_role_runs_in_the_foreground(words: list[str], expected: list[str]) -> None:
    assert workers.argv(SPARK, words) == ["/opt/spark/bin/spark-class", *expected]


def test_beams_flags_go_to_its_boot_program_unchanged() -> None:
    words = ["--id=sdk-0-0", "--provision_endpoint=localhost:12371", "--unheard_of", "x"]
    assert workers.argv({}, words) == ["/opt/apache/beam/boot", *words]


@pytest.mark.parametrize("role", ["driver", "executor", "master", "worker"])
def test_a_role_without_spark_names_the_image(role: str) -> None:
    with pytest.raises(PlacementError, match=rf"^{role}: SPARK_HOME is not set.*zen-runner:spark$"):
        workers.argv({"JAVA_HOME": "/jre"}, [role])


@pytest.mark.parametrize(
    ("words", "environ", "said"),
    [
        (["master"], {}, "zen-runner:spark"),
        (["worker", "spark://m:7077"], {"SPARK_HOME": "/nowhere", "JAVA_HOME": "/nowhere"}, "no JVM in JAVA_HOME=/nowhere"),
        (["--worker_pool"], {}, "/opt/apache/beam/boot can not be started"),
        (["--id=1", "--logging_endpoint=x"], {}, "org.zen-runner.beam.boot"),
    ],
)
@pytest.mark.processes
def test_the_front_door_ends_with_76(words: list[str], environ: dict[str, str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "entrypoint", *words],
        env={**running.environment(), **environ},
        cwd=running.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 76
    message, record = done.stderr.splitlines()
    assert said in message
    assert json.loads(record)["class"] == "placement"


@pytest.mark.processes
def test_the_program_takes_the_place_of_the_runner(tmp_path: Path) -> None:
    program = tmp_path / "bin/spark-class"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$$ $*"\nexit 7\n')
    program.chmod(0o755)
    (tmp_path / "bin/java").write_text("")
    (tmp_path / "bin/java").chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-m", "entrypoint", "worker", "spark://m:7077", "a b"],
        env={**running.environment(), "SPARK_HOME": str(tmp_path), "JAVA_HOME": str(tmp_path)},
        cwd=running.ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (7, f"{process.pid} {workers.STANDALONE['worker']} spark://m:7077 a b\n")
