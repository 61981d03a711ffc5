"""A standalone Spark cluster of host processes, from the Spark that the engines' Python has."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

from tests.support.waiting import wait_until

# Small jobs spend their time in starting; this halves it.
FAST = {"JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}


def home_of(python: str) -> Path:
    """Return the directory of the PySpark that a Python imports."""
    code = "import pyspark; print(pyspark.__path__[0])"
    return Path(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout.strip())


def free_port() -> int:
    """Return a port of this machine's that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that live."""
    found = []
    for path in Path("/proc").glob("[1-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state not in "ZX":
            found.append(int(path.parent.name))
    return found


class Cluster:
    """A master on the loopback interface, and workers of one core each.

    Args:
        python: the engines' Python; its executors' as well.
        folder: for logs and the workers' files.
    """

    def __init__(self, python: str, folder: Path) -> None:
        self._home = home_of(python)
        self._folder = folder
        self._env = {**os.environ, **FAST, "PYSPARK_PYTHON": python, "SPARK_LOCAL_IP": "127.0.0.1"}
        port = free_port()
        self.url = f"spark://127.0.0.1:{port}"
        self.workers: list[subprocess.Popen[bytes]] = []
        options = ["--host", "127.0.0.1", "--port", str(port), "--webui-port", "0"]
        self.master = self._start("master", "org.apache.spark.deploy.master.Master", *options)
        wait_until(lambda: "I have been elected leader" in self._log("master"), subject="a master")

    def have(self, count: int) -> list[subprocess.Popen[bytes]]:
        """Start workers until there are so many, wait until the master knows them, and return them."""
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        while len(self.workers) < count:
            name = f"worker-{len(list(self._folder.glob('worker-*.log')))}"
            options = ["--host", "127.0.0.1", "--cores", "1", "--memory", "1g", "--webui-port", "0"]
            options += ["--work-dir", str(self._folder / name), self.url]
            self.workers.append(self._start(name, "org.apache.spark.deploy.worker.Worker", *options))
            wait_until(lambda name=name: "Successfully registered" in self._log(name), subject=name)  # type: ignore[misc]
        return self.workers

    def close(self) -> None:
        """Kill all of it."""
        for worker in self.workers:
            kill(worker)
        kill(self.master)

    def _start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("wb") as log:
            argv = [str(self._home / "bin/spark-class"), *command]
            conf = self._folder / "log4j2.properties"
            conf.write_text(
                "rootLogger.level=info\nrootLogger.appenderRef.out.ref=out\nappender.out.type=Console\nappender.out.name=out\n"
                "appender.out.layout.type=PatternLayout\nappender.out.layout.pattern=%m%n%ex\n"
            )
            env = {**self._env, "JAVA_TOOL_OPTIONS": f"{FAST['JAVA_TOOL_OPTIONS']} -Dlog4j2.configurationFile={conf}"}
            return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True)

    def _log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a worker and its executors, or a master, at once."""
    for pid in [process.pid, *children(process.pid)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait(timeout=30)
