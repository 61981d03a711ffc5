"""A container that an engine starts as one of its workers: Spark's four roles, and Beam's boot program.

Spark on Kubernetes and Dataflow name no program of the image: they start its entrypoint, with arguments of their own.
The program takes this process's place, so that it is the one that tini passes signals to.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

# Source: the container contract of Beam's Fn API, https://s.apache.org/beam-fn-api-container-contract.
BOOT = "/opt/apache/beam/boot"
STANDALONE = {"master": "org.apache.spark.deploy.master.Master", "worker": "org.apache.spark.deploy.worker.Worker"}
# The executor's arguments and the variables in which Spark on Kubernetes hands them to the container.
# Source: org.apache.spark.deploy.k8s.Constants and .features.BasicExecutorFeatureStep of Spark 4.1.
EXECUTOR = {
    "--driver-url": "SPARK_DRIVER_URL",
    "--executor-id": "SPARK_EXECUTOR_ID",
    "--cores": "SPARK_EXECUTOR_CORES",
    "--app-id": "SPARK_APPLICATION_ID",
    "--hostname": "SPARK_EXECUTOR_POD_IP",
    "--resourceProfileId": "SPARK_RESOURCE_PROFILE_ID",
}
EXECUTOR_POD = "SPARK_EXECUTOR_POD_NAME"  # for the driver's log and its clean-up; executors work without
EXECUTOR_MEMORY = "SPARK_EXECUTOR_MEMORY"
JAVA_OPTION = "SPARK_JAVA_OPT_"


def argv(environ: Mapping[str, str], words: Sequence[str]) -> list[str]:
    """Return the command line of the program that a worker's arguments ask for.

    Args:
        environ: the container's environment variables.
        words: the container's arguments: ``driver``, ``executor``, ``master`` or ``worker`` and what follows, or the flags
            of Beam's boot program.

    Returns:
        The program, as a path or a name on ``PATH``, and its arguments.

    Raises:
        PlacementError: the environment names no Spark.
        UsageError: what Spark on Kubernetes sets for an executor is not set.
    """
    role, *rest = words
    if role.startswith("--"):
        return [BOOT, *words]
    from backends.errors import PlacementError

    home = environ.get("SPARK_HOME")
    if not home:
        raise PlacementError(f"{role}: SPARK_HOME is not set, so there is no Spark here: use the image zen-runner:spark")
    if role == "driver":
        # The driver is where it shall be: --deploy-mode cluster, which the properties may say, would submit once more.
        address = environ.get("SPARK_DRIVER_BIND_ADDRESS")
        bind = ["--conf", f"spark.driver.bindAddress={address}"] if address else []
        return [f"{home}/bin/spark-submit", *bind, "--deploy-mode", "client", *rest]
    if role in STANDALONE:
        return [f"{home}/bin/spark-class", STANDALONE[role], *rest]
    if missing := [name for name in (*EXECUTOR.values(), EXECUTOR_MEMORY) if not environ.get(name)]:
        from backends.errors import UsageError

        raise UsageError(f"executor: {', '.join(missing)} not set; Spark on Kubernetes sets them, and starts executors itself")
    numbered = [(name[len(JAVA_OPTION) :], value) for name, value in environ.items() if name.startswith(JAVA_OPTION)]
    options = [value for _, value in sorted((int(number), value) for number, value in numbered if number.isdecimal())]
    memory = environ[EXECUTOR_MEMORY]
    # spark-class would do the same but for the memory, of which it knows nothing for this class.
    return [
        f"{environ['JAVA_HOME']}/bin/java" if environ.get("JAVA_HOME") else "java",
        *options,
        f"-Xms{memory}",
        f"-Xmx{memory}",
        "-cp",
        _classpath(home, environ),
        "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend",
        *(word for flag, name in EXECUTOR.items() for word in (flag, environ[name])),
        *(("--podName", environ[EXECUTOR_POD]) if environ.get(EXECUTOR_POD) else ()),
        *rest,
    ]


def _classpath(home: str, environ: Mapping[str, str]) -> str:
    places = [environ.get("SPARK_CONF_DIR") or f"{home}/conf"]
    places += [environ.get(name, "") for name in ("HADOOP_CONF_DIR", "SPARK_CLASSPATH")]
    places += [f"{home}/jars/*", *(environ.get(name, "") for name in ("SPARK_EXTRA_CLASSPATH", "SPARK_DIST_CLASSPATH"))]
    return ":".join(place for place in places if place)


def run(words: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """Become the program that a worker's arguments ask for.

    Args:
        words: the container's arguments.
        environ: the container's environment variables.

    Raises:
        PlacementError: the program is not in this container.
        UsageError: what Spark on Kubernetes sets for an executor is not set.
    """
    from backends.errors import PlacementError

    line = argv(environ, words)
    if line[0] == BOOT:
        fix = "use the image zen-runner:beam, and one whose label org.zen-runner.beam.boot is 'present'"
    else:
        from shutil import which

        fix = "use the image zen-runner:spark"
        java = environ.get("JAVA_HOME")
        if which("java", path=f"{java}/bin" if java else environ.get("PATH", os.defpath)) is None:
            raise PlacementError(f"{words[0]}: there is no JVM {f'in JAVA_HOME={java}' if java else 'on PATH'}: {fix}")
    try:
        os.execvpe(line[0], line, dict(environ))
    except OSError as error:
        raise PlacementError(f"{words[0]}: {line[0]} can not be started ({error.strerror}): {fix}") from error
