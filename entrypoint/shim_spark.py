"""Runs one step on Spark inside the user's Python: a function with a SparkSession, or a program through spark-submit.

Like ``shim.py``, which it loads for what they share, this file has nothing of zen-runner for the step to import. Its document:

    {"kind": "spark", "target": "package.module:function", "program": [argument], "master": url, "addresses": [[host, port]],
     "local": bool, "conf": {name: value}, "files": [path], "startup_timeout": seconds, "idle_timeout": seconds or null,
     "inputs": {name: url}, "outputs": {name: url}, "args": {...}, "values": path, "error": path, "metrics": path}

The function gets ``(spark, inputs, outputs)`` and the args by name. The session is this file's to stop.
"""

from __future__ import annotations

import os
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

FIRST = ("spark", "inputs", "outputs")
_LOOK = 1.0  # seconds between two looks at a job
# What Spark says when the cluster, and not the job, is at fault.
_LOST = ("All masters are unresponsive", "Master removed our application", "External scheduler cannot be instantiated")


def _load(name: str) -> Any:
    """Load a file beside this one, under a name that is nobody's module."""
    from importlib.util import module_from_spec, spec_from_file_location

    found: Any = spec_from_file_location("_" + name, os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py"))
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return module


# -- what has to be here ------------------------------------------------------------------------------------------------------


def _find_spark(shim: Any, spec: dict[str, Any]) -> str:
    """Return the directory of PySpark, or end with what is missing and which image has it."""
    fix = "; use the image zen-runner:spark, or pip install pyspark"
    try:
        import pyspark
    except ImportError as error:
        shim.fail(spec, "placement", "the step needs Spark, and %s can't import pyspark (%s)%s" % (sys.executable, error, fix))
    import shutil

    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else "java"
    if shutil.which(java) is None:
        where = "JAVA_HOME=%s has no bin/java" % home if home else "no java is on PATH"
        message = "the step needs Spark, and so a JVM, and %s; use the image zen-runner:spark, or install a JRE" % where
        shim.fail(spec, "placement", message)
    return os.path.dirname(os.path.abspath(str(pyspark.__file__)))


def _reach(shim: Any, spec: dict[str, Any]) -> str:
    """Wait until one of the masters takes a connection, and return the address that this machine has on the way there."""
    import socket

    until = time.monotonic() + spec["startup_timeout"]
    why = ""
    while True:
        for host, port in spec["addresses"]:
            try:
                with socket.create_connection((host, port), timeout=max(0.1, min(5.0, until - time.monotonic()))) as found:
                    return str(found.getsockname()[0])
            except OSError as error:
                why = "%s:%s: %s" % (host, port, error.strerror or error)
        if time.monotonic() + 0.5 > until:
            message = "no Spark master answers at %s within %g s (%s)" % (spec["master"], spec["startup_timeout"], why)
            shim.fail(spec, "infra", message + "; is the URL right, and is this network the master's?")
        time.sleep(0.5)


# -- a job under watch --------------------------------------------------------------------------------------------------------


class Watch(threading.Thread):
    """Ends the step when the cluster keeps it waiting: for the application to start, or for an executor to take a task.

    Args:
        shim: the shared file.
        spec: the document.
    """

    def __init__(self, shim: Any, spec: dict[str, Any]) -> None:
        super().__init__(name="zen-runner watch", daemon=True)
        self._shim = shim
        self._spec = spec
        self._since = time.monotonic()
        self._context: Any = None
        self._over = threading.Event()

    def started(self, context: Any) -> None:
        """Note that the application has started."""
        self._since = time.monotonic()
        self._context = context

    def close(self) -> None:
        """Watch no longer."""
        self._over.set()

    def run(self) -> None:
        done = -1
        while not self._over.wait(_LOOK):
            context = self._context
            waited = time.monotonic() - self._since
            if context is None:
                if waited > self._spec["startup_timeout"]:
                    self._end("Spark did not start within %g s; its last words are above" % self._spec["startup_timeout"])
                continue
            if self._spec["local"] or self._spec["idle_timeout"] is None:
                return
            try:
                finished, active, waiting = _progress(context)
            except Exception:  # the session is being stopped, or the JVM is gone, which the main thread finds out itself
                continue
            if not waiting or active or finished != done:
                done, self._since = finished, time.monotonic()
            elif waited > self._spec["idle_timeout"]:
                self._end(
                    "no executor of %s took a task for %g s: does a worker live that has the cores and memory that each asks for?"
                    % (self._spec["master"], self._spec["idle_timeout"])
                )

    def _end(self, message: str) -> None:
        if not self._over.is_set():
            self._shim.write_error(self._spec, "infra", message)
            os._exit(1)  # the supervisor ends the JVM, which is of this process's group


def _progress(context: Any) -> tuple[int, int, bool]:
    """Return how many tasks have ended, how many run, and whether a job waits for more."""
    status = context.statusTracker()
    jobs = status.getActiveJobsIds()
    executors = context._jsc.sc().statusStore().executorList(False)
    found = [executors.apply(index) for index in range(executors.size())]
    ended = sum(one.completedTasks() + one.failedTasks() for one in found)
    alive = [one for one in found if one.isActive()]
    return ended, sum(one.activeTasks() for one in alive), bool(jobs)


def _metrics(context: Any) -> dict[str, Any]:
    """Return what Spark counted over all executors: tasks, seconds, bytes.

    Source: Spark's REST API, ``/applications/[app-id]/allexecutors``, whose fields these are.
    """
    executors = context._jsc.sc().statusStore().executorList(False)
    found = [executors.apply(index) for index in range(executors.size())]
    workers = [one for one in found if one.id() != "driver"] or found
    return {
        "executors": len(workers),
        "executors_lost": sum(not one.isActive() for one in workers),
        "tasks": sum(one.completedTasks() for one in workers),
        "tasks_failed": sum(one.failedTasks() for one in workers),
        "task_seconds": sum(one.totalDuration() for one in workers) / 1000,
        "gc_seconds": sum(one.totalGCTime() for one in workers) / 1000,
        "input_bytes": sum(one.totalInputBytes() for one in workers),
        "shuffle_read_bytes": sum(one.totalShuffleRead() for one in workers),
        "shuffle_write_bytes": sum(one.totalShuffleWrite() for one in workers),
    }


def _write_metrics(spec: dict[str, Any], context: Any) -> None:
    import json

    try:
        text = json.dumps(_metrics(context))
    except Exception as error:  # the JVM is gone, say; why is told elsewhere
        sys.stderr.write("zen-runner: Spark's metrics can't be had: %s\n" % type(error).__name__)
        return
    with open(spec["metrics"], "w") as file:
        file.write(text)


# -- how it failed ------------------------------------------------------------------------------------------------------------


def _own_frames(error: BaseException) -> list[str]:
    """Return the traceback of the user's code, the user's frames of it: the worker's if it failed there, else this process's."""
    import pyspark

    frames = _load("shim_frames")
    text = str(error)
    if frames.BEGIN in text:
        lines: list[str] = []
        for line in frames.last_of(text):
            if line.startswith("\tat ") or (lines and not line.strip()):
                break  # the JVM's own
            lines.append(line)
    else:
        lines = frames.of(error)
    own = os.path.dirname(os.path.abspath(pyspark.__file__)) + os.sep
    # A worker on another machine has its Spark elsewhere.
    found: list[str] = frames.users(lines, lambda file: file.startswith(own) or "/pyspark" in file or "/py4j" in file)
    return found


def _message(error: BaseException, trace: list[str]) -> str:
    frames = _load("shim_frames")
    said = next((line for line in trace[1:] if not line.startswith(" ")), "") or "%s: %s" % (type(error).__name__, error)
    java = getattr(error, "java_exception", None)
    if java is not None and frames.BEGIN not in str(error):  # of the JVM's many lines the first says it
        said = "%s: %s" % (type(error).__name__, str(java.toString()).partition("\n")[0])
    if "pickle" in said or "serialize" in said:
        said += "; what a function refers to has to reach the executors: make it inside the function"
    return said + str(frames.place(trace))


def _fail(shim: Any, spec: dict[str, Any], error: BaseException) -> None:
    text = str(error)
    lost = next((sign for sign in _LOST if sign in text), None)
    own = _own_frames(error)
    trace = "\n".join(own)
    sys.stderr.write(trace + "\n")
    if lost:
        shim.fail(spec, "infra", "the Spark cluster %s gave the application up: %s" % (spec["master"], lost), trace)
    shim.fail(spec, "user", _message(error, own), trace)


# -- the two kinds ------------------------------------------------------------------------------------------------------------


def _settle(shim: Any, spec: dict[str, Any]) -> None:
    """Set what depends on where this process is: the address that executors find the driver at, and their Python."""
    conf = spec["conf"]
    if not spec["local"]:
        here = _reach(shim, spec)
        conf.setdefault("spark.driver.host", here)
        conf.setdefault("spark.driver.bindAddress", "0.0.0.0")
        if spec["master"].startswith("k8s://") and os.environ.get("HOSTNAME"):
            # So that Kubernetes takes the executors away with the driver's pod.
            conf.setdefault("spark.kubernetes.driver.pod.name", os.environ["HOSTNAME"])
    else:
        os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)


def _submit(spec: dict[str, Any], home: str) -> NoReturn:
    """Become spark-submit with the step's program."""
    argv = [os.path.join(home, "bin", "spark-submit"), "--master", spec["master"]]
    for name, value in sorted(spec["conf"].items()):
        argv += ["--conf", "%s=%s" % (name, value)]
    archives = [file for file in spec["files"] if file.endswith((".py", ".zip", ".egg"))]
    if archives:
        argv += ["--py-files", ",".join(archives)]
    os.environ["SPARK_HOME"] = home
    sys.stdout.flush()
    os.execv(argv[0], [*argv, *spec["program"]])


def main() -> None:
    shim = _load("shim")
    spec = shim.read()
    home = _find_spark(shim, spec)
    if spec["program"]:
        _settle(shim, spec)
        _submit(spec, home)
    function = shim.find(spec, spec["target"])
    shim.check(spec, function, dict(spec["args"]), FIRST)
    _settle(shim, spec)
    watch = Watch(shim, spec)
    watch.start()
    from pyspark import SparkConf
    from pyspark.sql import SparkSession

    conf = SparkConf().setMaster(spec["master"]).setAll(list(spec["conf"].items()))
    try:
        session = SparkSession.builder.config(conf=conf).getOrCreate()
    except Exception as error:
        watch.close()
        _fail(shim, spec, error)
    context = session.sparkContext
    for file in spec["files"]:
        context.addPyFile(file)
    watch.started(context)
    try:
        returned = function(session, spec["inputs"], spec["outputs"], **spec["args"])
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        watch.close()
        _write_metrics(spec, context)
        _fail(shim, spec, error)
    watch.close()
    _write_metrics(spec, context)
    session.stop()
    shim.save_returned(spec, returned)


if __name__ == "__main__":
    main()
