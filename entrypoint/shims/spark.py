"""Run one step on Spark inside the user's Python: a function with a SparkSession, or a program through spark-submit.

Like ``call.py``, which it loads for what they share, it gives the step nothing of zen-runner to import. Its document:

    {"kind": "spark", "target": "package.module:function", "program": [argument], "master": url, "addresses": [[host, port]],
     "local": bool, "conf": {name: value}, "files": [path], "startup_timeout": seconds, "idle_timeout": seconds or null,
     "inputs": {name: url}, "outputs": {name: url}, "args": {...}, "values": path, "error": path, "metrics": path}

The function gets ``(spark, inputs, outputs)`` and the args by name. This file stops the session.
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
_POLL = 1.0  # seconds between two looks at a job
_STOP = 30.0  # seconds that Spark may take to stop
_REGISTER = 60.0  # seconds for which Spark itself asks a standalone master: three times 20
# What Spark says when the cluster, and not the job, is at fault.
_LOST = ("All masters are unresponsive", "Master removed our application", "External scheduler cannot be instantiated")


def _load(name: str) -> Any:
    """Load a file next to this one, under a name that no module of the user's has."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec: Any = spec_from_file_location("_" + name, os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py"))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- what the step needs -------------------------------------------------------------------------------------------------------


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
    """Wait until one of the masters takes a connection, and return this machine's own address on that route."""
    import socket

    until = time.monotonic() + spec["startup_timeout"]
    why = ""
    while True:
        for host, port in spec["addresses"]:
            try:
                with socket.create_connection((host, port), timeout=max(0.1, min(5.0, until - time.monotonic()))) as connection:
                    return str(connection.getsockname()[0])
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

    def close(self) -> float:
        """Stop watching, and return the seconds for which there had been no progress."""
        self._over.set()
        return time.monotonic() - self._since

    def run(self) -> None:
        """Look at the job until it is closed, or ends the step."""
        done = -1
        while not self._over.wait(_POLL):
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
    workers = [executors.apply(index) for index in range(executors.size())]
    ended = sum(worker.completedTasks() + worker.failedTasks() for worker in workers)
    return ended, sum(worker.activeTasks() for worker in workers if worker.isActive()), bool(jobs)


def _metrics(context: Any) -> dict[str, Any]:
    """Return what Spark counted over all executors: tasks, seconds, bytes.

    Source: Spark's REST API, ``/applications/[app-id]/allexecutors``, whose fields these are.
    """
    executors = context._jsc.sc().statusStore().executorList(False)
    everyone = [executors.apply(index) for index in range(executors.size())]
    workers = [one for one in everyone if one.id() != "driver"]
    if not workers:  # the driver did it all; what it calls its duration is how long it has been there
        return _counted(everyone)
    return {
        **_counted(workers),
        "executors_lost": sum(not one.isActive() for one in workers),
        "task_seconds": sum(one.totalDuration() for one in workers) / 1000,
    }


def _counted(workers: list[Any]) -> dict[str, Any]:
    return {
        "executors": len(workers),
        "tasks": sum(one.completedTasks() for one in workers),
        "tasks_failed": sum(one.failedTasks() for one in workers),
        "gc_seconds": sum(one.totalGCTime() for one in workers) / 1000,
        "input_bytes": sum(one.totalInputBytes() for one in workers),
        "shuffle_read_bytes": sum(one.totalShuffleRead() for one in workers),
        "shuffle_write_bytes": sum(one.totalShuffleWrite() for one in workers),
    }


def _write_metrics(spec: dict[str, Any], context: Any) -> None:
    import json

    try:
        text = json.dumps(_metrics(context))
    except Exception as error:  # the JVM may be gone; the reason is reported elsewhere
        sys.stderr.write("zen-runner: Spark's metrics can't be had: %s\n" % type(error).__name__)
        return
    with open(spec["metrics"] + ".new", "w") as file:
        file.write(text)
    os.replace(spec["metrics"] + ".new", spec["metrics"])


def _count_at_stop(spec: dict[str, Any], context: Any) -> None:
    """Write the metrics when the context stops, also if the user stops it: afterwards it can't be asked."""
    stop = context.stop

    def stop_counted() -> None:
        if context._jsc is not None:
            _write_metrics(spec, context)
        stop()

    context.stop = stop_counted


def _stop(session: Any) -> None:
    """Stop the session, which completes the event log; wait ``_STOP`` seconds at most, as its cluster may be gone."""

    def stop() -> None:
        try:
            session.stop()
        except Exception as error:  # the JVM may be gone; what the step did stands
            sys.stderr.write("zen-runner: Spark did not stop as it should: %s\n" % type(error).__name__)

    thread = threading.Thread(target=stop, name="zen-runner stop", daemon=True)
    thread.start()
    thread.join(_STOP)


# -- how it failed ------------------------------------------------------------------------------------------------------------


def _own_frames(error: BaseException) -> list[str]:
    """Return the traceback with the user's frames alone: the worker's if it failed there, else this process's."""
    import pyspark

    frames = _load("frames")
    text = str(error)
    lines: list[str] = []
    for line in frames.last_of(text) if frames.BEGIN in text else frames.of(error):
        if line.startswith("\tat "):
            break  # from here on it is the JVM's own
        if line.strip():
            lines.append(line.rstrip())
    # A worker on another machine has its Spark elsewhere.
    own = os.path.dirname(os.path.abspath(pyspark.__file__)) + os.sep, "/pyspark.zip/", "-packages/pyspark/", "/py4j"
    kept: list[str] = frames.users(lines, lambda file: any(part in file for part in own))
    return kept


def _message(error: BaseException, trace: list[str]) -> str:
    frames = _load("frames")
    at = next((index for index, line in enumerate(trace) if index and not line.startswith(" ")), 0)
    said = trace[at] if at else "%s: %s" % (type(error).__name__, error)
    if said.endswith(":") and trace[at + 1 :]:  # some errors have nothing but their name on the first line
        said += " " + trace[at + 1]
    java = getattr(error, "java_exception", None)
    if java is not None and frames.BEGIN not in str(error):  # the first of the JVM's many lines has the reason
        said = "%s: %s" % (type(error).__name__, str(java.toString()).partition("\n")[0])
    if said.startswith("pyspark.errors."):
        name, _, rest = said.partition(":")
        said = name.rpartition(".")[2] + ":" + rest
    if "pickle" in said or "serialize" in said:
        said += "; what a function refers to has to reach the executors: make it inside the function"
    if "[JAVA_GATEWAY_EXITED]" in said:
        said += "; why is above: a JVM older than this Spark wants, more memory than there is, packages that can't be had"
    return said + str(frames.place(trace))


def _fail(shim: Any, spec: dict[str, Any], error: BaseException, session: Any = None) -> NoReturn:
    text = str(error)
    lost = next((sign for sign in _LOST if sign in text), None)
    own = _own_frames(error)
    message = _message(error, own)  # before the stop: it may ask the JVM
    if session is not None:
        _stop(session)
    trace = "\n".join(own)
    sys.stderr.write(trace + "\n")
    if lost:
        shim.fail(spec, "infra", "the Spark cluster %s gave the application up: %s" % (spec["master"], lost), trace)
    shim.fail(spec, "user", message, trace)
    raise AssertionError  # not reached


# -- the two kinds ------------------------------------------------------------------------------------------------------------


def _settle(shim: Any, spec: dict[str, Any]) -> None:
    """Set what depends on this process's place: the address at which executors find the driver, and their Python."""
    conf = spec["conf"]
    if not spec["local"]:
        conf.setdefault("spark.driver.host", _reach(shim, spec))
        conf.setdefault("spark.driver.bindAddress", "0.0.0.0")
        if spec["master"].startswith("k8s://"):
            prefix = "spark.kubernetes.executor.podNamePrefix"
            conf[prefix] += "-" + os.environ.get("ZEN_ATTEMPT", "1")  # the last attempt's pods may still be there
            if os.environ.get("HOSTNAME"):
                # Kubernetes then removes the executors with the driver's pod.
                conf.setdefault("spark.kubernetes.driver.pod.name", os.environ["HOSTNAME"])
    else:
        os.environ["PYSPARK_PYTHON"] = sys.executable
        # Spark does not start where the machine's own name can't be resolved; and no other machine has to reach this one.
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
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
    """Run the step."""
    shim = _load("call")
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
    from pyspark import SparkConf, SparkContext
    from pyspark.sql import SparkSession

    conf = SparkConf().setMaster(spec["master"]).setAll(list(spec["conf"].items()))
    try:
        context = SparkContext(conf=conf)
        watch.started(context)
        session = SparkSession.builder.config(conf=conf).getOrCreate()
        for file in spec["files"]:
            context.addPyFile(file)
    except Exception as error:
        if watch.close() >= _REGISTER and not spec["local"]:  # what it raises then says anything but why
            shim.fail(spec, "infra", "the master %s did not take the application; its last words are above" % spec["master"])
        _fail(shim, spec, error)
    _count_at_stop(spec, context)
    try:
        returned = shim.call(function, session, spec["inputs"], spec["outputs"], **spec["args"])
    except KeyboardInterrupt:
        raise
    except SystemExit:
        watch.close()
        _stop(session)
        raise
    except BaseException as error:
        watch.close()
        _fail(shim, spec, error, session)
    watch.close()
    _stop(session)
    shim.save_returned(spec, returned)


if __name__ == "__main__":
    main()
