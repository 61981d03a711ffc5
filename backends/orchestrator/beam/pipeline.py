"""The program that the beam orchestrator starts under the user's Python: a pipeline's DAG as a Beam pipeline.

This file stands alone: standard library and Apache Beam only. Its one argument is a private directory, with

    spec.json     {"runner", "options", "driven", "steps": [{"step", "parents", "argv", "env", "retry", "done"}]}, parents first
    driver.sock   where the driver listens

The pipeline has one element and one ParDo per step, which gets the outputs of the step's parents as side inputs; one last ParDo
gets those of all steps that nobody waits for. What a ParDo does depends on where Beam's workers are:

- Where they reach the driver (``driven``), the driver runs the steps. A ParDo tells it that its step's turn has come and gives
  its signal at once: Beam's local runner takes one ParDo after the other, and one that waited for its step would hold up the
  other branches. The last ParDo waits until the driver says how the run ended.
- Elsewhere a ParDo runs ``argv`` on its worker, with the step's retries. Its signal is "" or why the step has failed.

The driver hears one line of JSON per event: ``{"program": pid}`` first, then ``ready``, ``running``, and ``ended``, ``failed`` or
``refused``. When it goes away this program and all that it started end.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

FAILED = "zen-runner: "
"""What the reason of a failed step begins with, so that it can be found in what a runner makes of an exception."""
DUPLICATE = 73
PAUSE = 5.0  # seconds between two looks at an attempt that somebody else has
MAX_BACKOFF = 60.0
CANCEL = 10.0  # seconds that a runner may take to cancel its job

# Run on the worker before the attempt's own program, in whose place it then is: on Linux the attempt gets SIGTERM when the worker
# that waits for it is gone. The process itself asks for that, since in a process with threads nothing may run after a fork.
GUARD = """
import os, sys
try:
    import ctypes
    parent = os.getppid()
    ctypes.CDLL(None).prctl(1, 15, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(143)
except (AttributeError, ImportError, OSError):
    pass
try:
    os.execvp(sys.argv[1], sys.argv[1:])
except OSError as error:
    sys.stderr.write("%s: %s\\n" % (sys.argv[1], error.strerror))
    sys.exit(126 if isinstance(error, PermissionError) else 127)
"""


class DriverConnection:
    """The connection to the driver."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._words = self._socket.makefile("rb")

    def tell(self, **event: Any) -> None:
        """Send one event; a driver that is gone hears nothing."""
        try:
            self._socket.sendall(json.dumps(event).encode() + b"\n")
        except OSError:
            pass

    def hear(self) -> dict[str, Any] | None:
        """Return what the driver says next; None when it is gone."""
        try:
            line = self._words.readline()
        except OSError:
            return None
        return dict(json.loads(line)) if line.endswith(b"\n") else None


def announce(path: str, step: str) -> None:
    """Tell the driver that a step's turn has come."""
    driver = DriverConnection(path)
    driver.tell(reached=step)
    driver.hear()


def await_end(path: str) -> str:
    """Wait for the run's end and return "" or why it failed."""
    driver = DriverConnection(path)
    driver.tell(last=True)
    word = driver.hear()
    return FAILED + "the driver is gone" if word is None else str(word["reason"])


def is_retried(policy: dict[str, Any], code: int) -> bool:
    """Return whether a step whose attempt ended with this status may have another one, its limit aside."""
    return code in policy["codes"] or (policy["others"] and code not in policy["never"])


def run_step(step: dict[str, Any]) -> str:
    """Run a step on this worker, retries included, and return "" or why it has failed."""
    retries = 0
    policy = step["retry"]
    while True:
        argv = [sys.executable, "-I", "-S", "-c", GUARD, *step["argv"]]
        code = subprocess.call(argv, env={**os.environ, **step["env"]}, stdin=subprocess.DEVNULL)
        code = 128 - code if code < 0 else code
        if code == 0:
            return ""
        if code == DUPLICATE:  # a bundle that the runner gave to another worker while the first one's attempt still lives
            time.sleep(PAUSE)
            continue
        if retries >= policy["limit"] or not is_retried(policy, code):
            hint = f"; is {step['argv'][0]} on the worker?" if code in (126, 127) else ""
            return f"{FAILED}step {step['step']!r} failed with exit status {code}{hint}"
        pause = min(policy["backoff"] * 2.0 ** min(retries, 60), MAX_BACKOFF)
        time.sleep(pause * (0.5 + int.from_bytes(os.urandom(4), "big") / 2**33))
        retries += 1


def is_in_process(spec: dict[str, Any]) -> bool:
    """Return whether Beam's workers are threads of this process."""
    if spec["driven"]:
        return bool(spec["options"].get("direct_running_mode") != "multi_processing")
    return str(spec["options"].get("environment_type", "")).upper() == "LOOPBACK"


def build(beam: Any, pipeline: Any, spec: dict[str, Any], path: str) -> None:
    """Put one ParDo per step into a Beam pipeline, and the last one; ``path`` is the driver's socket."""

    class Step(beam.DoFn):  # type: ignore[misc]
        def __init__(self, step: dict[str, Any]) -> None:
            self.step = step

        def process(self, element, *parents):  # type: ignore[no-untyped-def] # Beam reads annotations as type hints
            reasons = [reason for signals in parents for reason in signals if reason]
            if driven:
                announce(path, self.step["step"])
                yield ""
            elif self.step["done"]:
                yield ""
            elif reasons:
                yield reasons[0]
            else:
                yield run_step(self.step)

    class Last(beam.DoFn):  # type: ignore[misc]
        def process(self, element, *leaves):  # type: ignore[no-untyped-def]
            reasons = [reason for signals in leaves for reason in signals if reason]
            if driven:
                reasons = [await_end(path)]
            if reasons and reasons[0]:
                raise RuntimeError(reasons[0])
            yield ""

    driven = spec["driven"]
    if is_in_process(spec):
        # Here they can be pickled by name. By value, as for other processes, half of Beam's time would go into it.
        module: Any = ModuleType("zen_beam_dag")
        for cls in (Step, Last):
            cls.__module__, cls.__qualname__ = module.__name__, cls.__name__
            setattr(module, cls.__name__, cls)
        sys.modules[module.__name__] = module
    one = pipeline | "run" >> beam.Impulse()
    signals: dict[str, Any] = {}
    inner = {parent for step in spec["steps"] for parent in step["parents"]}
    for step in spec["steps"]:
        sides = [beam.pvalue.AsIter(signals[parent]) for parent in step["parents"]]
        signals[step["step"]] = one | step["step"] >> beam.ParDo(Step(step), *sides)
    leaves = [beam.pvalue.AsIter(signal) for name, signal in signals.items() if name not in inner]
    one | "last step" >> beam.ParDo(Last(), *leaves)


def make_options(spec: dict[str, Any]) -> Any:
    """Return Beam's options object.

    Raises:
        ValueError: Beam does not take an option; the message is Beam's own.
    """
    import difflib
    import io

    from apache_beam.options.pipeline_options import PipelineOptions  # type: ignore[import-not-found, unused-ignore]

    parsers: list[Any] = []
    stderr, sys.stderr = sys.stderr, io.StringIO()
    try:
        options = PipelineOptions.from_dictionary(spec["options"])
        options.get_all_options(add_extra_args_fn=parsers.append)
    except SystemExit:  # argparse's; usage first, then one line that says what is wrong
        complaint = sys.stderr.getvalue().strip().rpartition("error: ")[2]
        raise ValueError(complaint or "Beam refused the options") from None
    finally:
        sys.stderr = stderr
    known = [flag.lstrip("-") for flag in parsers[0]._option_string_actions]
    unknown = [name for name in spec["options"] if name not in known]
    if spec["driven"] and unknown:
        near = difflib.get_close_matches(unknown[0], known, 1)
        raise ValueError(f"Beam has no option {unknown[0]!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    return options


def make_runner(name: str, driven: bool) -> Any:
    """Return Beam's runner of that name; its local one where the driver runs the steps."""
    if driven:
        # What Beam's DirectRunner is in the end; the class of that name first tries to download another one's binary.
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner  # type: ignore[import-not-found, unused-ignore]

        return FnApiRunner()
    from apache_beam.runners.runner import create_runner  # type: ignore[import-not-found, unused-ignore]

    return create_runner(name)


def first_line(error: BaseException) -> str:
    """Return what an exception says in one line: the reason of a failed step where there is one."""
    text = str(error).strip()
    for line in reversed(text.splitlines()):
        if FAILED in line:
            return line[line.rindex(FAILED) + len(FAILED) :].split("\\n")[0].partition(" [while running ")[0]
    line = text.splitlines()[0][:1000] if text else ""
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def end_all() -> NoReturn:
    """End this program, Beam's workers and the attempts below them, which all are of one process group."""
    os.killpg(os.getpgrp(), signal.SIGTERM)
    os._exit(143)


def main(folder: str) -> int:
    """Run the pipeline and return the exit status."""
    path = os.path.join(folder, "driver.sock")
    driver = DriverConnection(path)
    driver.tell(program=os.getpid())
    with open(os.path.join(folder, "spec.json"), encoding="utf-8") as file:
        spec = json.load(file)
    jobs: list[Any] = []

    def listen() -> None:
        if driver.hear() is None:  # the driver was killed
            import shutil

            shutil.rmtree(folder, ignore_errors=True)
        watchdog = threading.Timer(CANCEL, end_all)
        watchdog.daemon = True
        watchdog.start()
        try:
            for job in [] if spec["driven"] else jobs:
                job.cancel()
        except Exception as error:
            sys.stderr.write(f"cancel: {first_line(error)}\n")
        end_all()

    threading.Thread(target=listen, daemon=True).start()
    try:
        import apache_beam as beam  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        driver.tell(event="refused", kind="placement", message=f"{type(error).__name__}: {error}", beam=False)
        return 1
    try:
        options = make_options(spec)
        runner = make_runner(spec["runner"], spec["driven"])
    except (Exception, SystemExit) as error:
        text = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        driver.tell(event="refused", kind="config", message=text.strip(), beam=True)
        return 1
    driver.tell(event="ready")
    try:
        pipeline = beam.Pipeline(runner=runner, options=options)
        build(beam, pipeline, spec, path)
        job = pipeline.run()
        jobs.append(job)
        driver.tell(event="running")
        state = str(job.wait_until_finish() or job.state)
        if state != "DONE":
            raise RuntimeError(f"Beam's job ended as {state}")
    except (Exception, SystemExit) as error:
        import traceback

        traceback.print_exc()
        driver.tell(event="failed", message=first_line(error))
        return 1
    driver.tell(event="ended")
    return 0


if __name__ == "__main__":
    del sys.path[0]  # our own directory, whose names are not for Beam
    sys.exit(main(sys.argv[1]))
