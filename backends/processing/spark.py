"""Spark: in the step's own container, on a standalone cluster, or on Kubernetes; the driver is always the step's process."""

from __future__ import annotations

from backends.base import ProcessingBaseBackend
from backends.errors import ConfigError, Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MASTERS = "local, local[N], local[*], spark://HOST:PORT or k8s://https://HOST:PORT"
# Set by the runner itself, in every job; a value of the user's would break what it is for.
_OURS = ("spark.eventLog.dir", "spark.eventLog.enabled", "spark.master", "spark.submit.deployMode")


class ProcessingSparkBackend(ProcessingBaseBackend):
    """Runs a ``spark`` step, or a ``run`` step through spark-submit, with executors where ``master`` says.

    Args:
        master: ``local[*]`` for the step's own container, ``spark://host:7077`` for a standalone cluster (several masters as
            ``spark://one:7077,two:7077``), ``k8s://https://host:443`` for executors as pods.
        conf: Spark properties by name, such as ``{"spark.sql.shuffle.partitions": "8"}``.
        packages: Maven coordinates of jars that Spark fetches when the step starts.
        py_files: Python files and archives for the executors, from the code's directory. The code itself goes there anyway.
        event_log: keep Spark's event log in the store, beside the step's log.
        executors: how many executors; None for what the cluster gives.
        executor_cores: cores of each; None for Spark's default.
        executor_memory: memory of each, such as ``2g``; None for Spark's default.
        namespace: the Kubernetes namespace of the executors.
        service_account: the Kubernetes service account of the executors; None for the namespace's default.
        startup_timeout: how long the master may take to answer, and the application to start, in seconds.
        idle_timeout: how long a job may wait with no executor at work, in seconds; None for ever. For ``spark`` steps.
    """

    FRAMEWORK = "spark"

    def __init__(
        self,
        master: str = "local[*]",
        conf: dict[str, str | int | float | bool] | None = None,
        packages: list[str] | None = None,
        py_files: list[str] | None = None,
        event_log: bool = True,
        executors: int | None = None,
        executor_cores: int | None = None,
        executor_memory: str | None = None,
        namespace: str = "default",
        service_account: str | None = None,
        startup_timeout: float = 60.0,
        idle_timeout: float | None = 300.0,
    ) -> None:
        problems = []
        if not _is_master(master):
            problems.append(Problem("", "args.master", f"{master[:80]!r} is not a Spark master; write {_MASTERS}"))
        for name in conf or {}:
            if name in _OURS:
                problems.append(Problem("", f"args.conf.{name}", "this one is set by zen-runner; remove it"))
            elif not name.startswith("spark."):
                problems.append(Problem("", f"args.conf.{name}", f"Spark reads spark.* only; write spark.{name}?"))
        for value, least in (("executors", executors), ("executor_cores", executor_cores)):
            if least is not None and least < 1:
                problems.append(Problem("", f"args.{value}", f"must be at least 1, not {least}"))
        for value, seconds in (("startup_timeout", startup_timeout), ("idle_timeout", idle_timeout)):
            if seconds is not None and seconds <= 0:
                problems.append(Problem("", f"args.{value}", f"must be more than 0 seconds, not {seconds:g}"))
        for index, file in enumerate(py_files or []):
            if file.startswith("/") or ".." in file.split("/"):
                problems.append(Problem("", f"args.py_files[{index}]", f"{file[:80]!r} is not below the code's directory"))
        if problems:
            raise ConfigError(problems)
        self.master = master
        self.packages = list(packages or ())
        self.py_files = list(py_files or ())
        self.event_log = event_log
        self.startup_timeout = startup_timeout
        self.idle_timeout = idle_timeout
        self._conf = {name: _text(value) for name, value in (conf or {}).items()}
        self._executors = {
            "spark.executor.instances": executors,
            "spark.executor.cores": executor_cores,
            "spark.executor.memory": executor_memory,
            # On a standalone cluster it is cores that are given out, and executors follow from them.
            "spark.cores.max": executors * (executor_cores or 1) if executors and master.startswith("spark://") else None,
        }
        self._namespace = namespace
        self._service_account = service_account

    @property
    def is_local(self) -> bool:
        """Whether driver and executors are one process."""
        return self.master.startswith("local")

    def get_spark_conf(self, name: str, image: str, memory: int | None = None) -> dict[str, str]:
        """Return the Spark properties of one step's application, by name; the user's own win.

        Args:
            name: the application's name.
            image: the container image of executors, which is the driver's own.
            memory: what the step's container has, in bytes, if that is limited.

        Source: Spark 4.1, "Spark Configuration" and "Running Spark on Kubernetes".
        """
        conf: dict[str, Any] = {
            "spark.app.name": name,
            "spark.submit.deployMode": "client",
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            # URLs of the store begin with s3://, which Hadoop's client knows by another name.
            "spark.hadoop.fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
            **self._executors,
        }
        if memory is not None:  # the rest is for the JVM's own needs, and for Python
            conf["spark.driver.memory"] = f"{max(512, memory * 6 // 10 >> 20)}m"
        if self.packages:
            conf["spark.jars.packages"] = ",".join(self.packages)
        if self.master.startswith("k8s://"):
            conf["spark.kubernetes.container.image"] = image
            conf["spark.kubernetes.namespace"] = self._namespace
            conf["spark.kubernetes.authenticate.driver.serviceAccountName"] = self._service_account
            conf["spark.kubernetes.authenticate.executor.serviceAccountName"] = self._service_account
            conf["spark.kubernetes.executor.podNamePrefix"] = _pod_name(name)
        conf.update(self._conf)
        return {key: _text(value) for key, value in sorted(conf.items()) if value is not None}


def masters(master: str) -> list[tuple[str, int]]:
    """Return the hosts and ports that a master's URL names; none for ``local``.

    Args:
        master: such as ``spark://one:7077,two:7077``.
    """
    scheme, _, rest = master.partition("://")
    if scheme == "k8s":
        rest = rest.rpartition("://")[2].partition("/")[0]
        host, colon, port = rest.rpartition(":")
        return [(host, int(port)) if colon else (rest, 443)]
    return [(one.rpartition(":")[0], int(one.rpartition(":")[2])) for one in rest.split(",")] if rest else []


def _is_master(text: str) -> bool:
    if text == "local":
        return True
    if text.startswith("local[") and text.endswith("]"):
        return all(part == "*" or (part.isdecimal() and int(part)) for part in text[6:-1].split(",")) and text.count(",") < 2
    scheme, _, rest = text.partition("://")
    if scheme == "k8s" and "://" in rest and not rest.startswith(("http://", "https://")):
        return False
    if scheme not in ("spark", "k8s") or not rest:
        return False
    try:
        return all(host and 0 < port < 65536 for host, port in masters(text))
    except ValueError:
        return False


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _pod_name(name: str) -> str:
    """Return a name as pods may have it, 47 characters at most, since Spark adds to it; its end tells one run from another."""
    kept = "".join(char if char.isascii() and char.isalnum() else "-" for char in name.lower())
    return kept[-47:].strip("-") or "zen-runner"
