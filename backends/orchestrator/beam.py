"""The orchestrator that makes the pipeline's DAG a pipeline of Apache Beam, on Beam's local runner or any other.

Beam is in the user's Python, not in the runner's, so ``beam_dag.py`` runs there as a program; the driver, here, and that program
talk over a socket in a private directory.

Where Beam runs on this machine the steps are the driver's: processes of the launcher that ``local`` has, started when Beam has
reached their ParDo. Everywhere else a step's ParDo runs ``zen-runner run --step`` on Beam's worker, and the driver follows the
store's records. Either way it is ``driver.drive`` that takes the run to its end.
"""

from __future__ import annotations

import os
import time
from collections import deque

from backends import graph, outcome, records, shipping, wire
from backends.errors import ConfigError, InfraError, PlacementError, Problem, Terminated, UsageError, ZenRunnerError
from backends.graph import Graph
from backends.orchestrator.client import NOT_PASSED, ClientDrivenBackend, cpus, end_orphans
from backends.orchestrator.driver import drive, record_of
from backends.store import BUCKET_SCHEMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    import subprocess
    from collections.abc import Callable, Mapping
    from typing import Any, Literal

    from backends.orchestrator.driver import Launcher, Report
    from backends.store import Store

DIRECT = "DirectRunner"
_HERE = frozenset(("direct", "directrunner", "fnapirunner", "switchingdirectrunner"))  # Beam takes any case, too
PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "beam_dag.py")
SETTLE = 10.0  # seconds, beside the steps' grace period, that Beam's job and its attempts have to end
LOOK = 1.0  # seconds between two looks at the records of a run elsewhere
_SUN_PATH = 100  # bytes that a socket's path may have, a little less than Linux's 108 and macOS's 104


class OrchestratorBeamBackend(ClientDrivenBackend):
    """Runs the pipeline as one of Apache Beam, a ParDo a step.

    Args:
        runner: Beam's name of the runner, or the full name of its class. With ``DirectRunner`` all is on this machine.
        options: Beam's pipeline options by their names without dashes, such as ``job_endpoint``.
        max_parallel: how many steps run at a time; None for one a CPU. On another runner that is the runner's to decide.
        keep_going: after a step failed for good, still run the steps that don't depend on it.
        program: the command of zen-runner on Beam's workers.
        mounts: local directories that Beam's workers see under the same paths.
        startup_timeout: seconds that Beam may take to be imported, and for which nothing may run while a step waits for Beam
            alone; None for ever.
        worker_machine_type: the machine type of Beam's workers. This and the next four are options of a runner that has workers
            of its own; one in ``options`` counts more.
        num_workers: how many workers there are at first.
        max_num_workers: how many there may be.
        disk_size_gb: the size of a worker's disk, in GB.
        autoscaling_algorithm: how the number of workers follows the work.
    """

    def __init__(
        self,
        runner: str = DIRECT,
        options: dict[str, Any] | None = None,
        max_parallel: int | None = None,
        keep_going: bool = False,
        program: list[str] | None = None,
        mounts: list[str] | None = None,
        startup_timeout: float | None = 600.0,
        worker_machine_type: str = "e2-medium",
        num_workers: int = 4,
        max_num_workers: int = 10,
        disk_size_gb: int = 100,
        autoscaling_algorithm: Literal["THROUGHPUT_BASED", "NONE"] = "THROUGHPUT_BASED",
    ) -> None:
        numbers = {"num_workers": num_workers, "max_num_workers": max_num_workers, "disk_size_gb": disk_size_gb}
        if max_parallel is not None:
            numbers["max_parallel"] = max_parallel
        problems = [
            Problem("", f"args.{name}", f"must be at least 1, not {number}") for name, number in numbers.items() if number < 1
        ]
        if startup_timeout is not None and startup_timeout <= 0:
            problems.append(Problem("", "args.startup_timeout", f"must be more than 0 seconds, not {startup_timeout:g}"))
        if not runner:
            problems.append(Problem("", "args.runner", f"must be the name of a Beam runner, such as {DIRECT}"))
        if program is not None and not program:
            problems.append(Problem("", "args.program", 'must be a command, such as ["zen-runner"]'))
        if mounts and any(path[:1] != "/" for path in mounts):
            problems.append(Problem("", "args.mounts", "must be absolute paths"))
        for name, value in (options or {}).items():
            where = f"args.options.{name}"
            if name == "runner":
                problems.append(Problem("", where, "is an argument of its own: write args.runner"))
            elif not name or name[:1] == "-" or "=" in name:
                problems.append(Problem("", where, "must be an option's name without dashes, such as job_endpoint"))
            elif not all(isinstance(part, str | int | float) for part in (value if isinstance(value, list) else [value])):
                problems.append(Problem("", where, "must be a string, a number, a boolean, or a list of these"))
        if problems:
            raise ConfigError(problems)
        self.runner = runner
        self.max_parallel = max_parallel
        self.keep_going = keep_going
        self._options = options or {}
        self._program = program or ["zen-runner"]
        self._mounts = mounts or []
        self._startup_timeout = float("inf") if startup_timeout is None else startup_timeout
        self._workers: dict[str, Any] = {
            "worker_machine_type": worker_machine_type,
            "num_workers": num_workers,
            "max_num_workers": max_num_workers,
            "disk_size_gb": disk_size_gb,
            "autoscaling_algorithm": autoscaling_algorithm,
        }

    def runs_here(self) -> bool:
        return self.runner.rpartition(".")[2].lower() in _HERE

    def render(self, config: Mapping[str, Any], run_id: str = "{run}") -> list[dict[str, Any]]:
        """Return the job's document, then one a step, parents first: what makes up the Beam pipeline.

        ``argv`` and ``env`` start an attempt of the step; ``retry`` holds the exit statuses after which there is another one.
        """
        spec = self._spec(config, run_id)
        steps = spec.pop("steps")
        return [{"job": config["name"], **spec}, *steps]

    def make_launcher(self, config: Mapping[str, Any], run_id: str, store: Store) -> Launcher:
        # A process that starts others and takes signals is the entrypoint's; this package never imports it.
        raise UsageError("Beam's DirectRunner is used under `zen-runner run`, which gives this backend its launcher")

    def cleanup(self, handle: Mapping[str, Any]) -> None:
        end_orphans(handle)  # Beam's program ends with its driver

    def run(
        self,
        config: Mapping[str, Any],
        run_id: str,
        store: Store,
        launcher: Launcher | None = None,
        *,
        report: Report | None = None,
        stop_requested: Callable[[], bool] | None = None,
    ) -> dict[str, Any]:
        stop = stop_requested or (lambda: False)
        if self.runs_here():
            if launcher is None:
                launcher = self.make_launcher(config, run_id, store)
            return self._run_here(config, run_id, store, launcher, report, stop)
        return self._run_elsewhere(config, run_id, store, report, stop)

    def _run_here(
        self,
        config: Mapping[str, Any],
        run_id: str,
        store: Store,
        launcher: Launcher,
        report: Report | None,
        stop: Callable[[], bool],
    ) -> dict[str, Any]:
        wake = getattr(launcher, "wake", lambda: None)
        beam = _Beam(self._spec(config, run_id), store, run_id, wake, self._startup_timeout)
        order = _Reached(config, beam)
        try:
            beam.start(stop)
            summary = drive(
                config,
                run_id,
                store,
                _Guarded(launcher, beam, order),
                max_parallel=self.max_parallel or cpus(),
                keep_going=self.keep_going,
                report=report,
                stop_requested=stop,
                graph=order,
            )
            beam.finish(summary)
            return summary
        finally:
            try:
                beam.close()
            finally:
                launcher.close()

    def _run_elsewhere(
        self, config: Mapping[str, Any], run_id: str, store: Store, report: Report | None, stop: Callable[[], bool]
    ) -> dict[str, Any]:
        from tempfile import TemporaryDirectory

        if not self._loops_back():
            with TemporaryDirectory(prefix="zen-runner-") as folder:
                shipment = shipping.ship(config, folder, mounts=self._mounts)
                shipping.upload(shipment, store)
            config = shipment.config
        records.put_config(store, config)
        before = records.results(store, run_id)
        done = [step for step, record in before.items() if record["class"] == outcome.SUCCESS]
        beam = _Beam(self._spec(config, run_id, done), store, run_id, lambda: None, self._startup_timeout)
        try:
            beam.start(stop)
            order = _Reached(config, beam)
            launcher = _Elsewhere(config, run_id, store, beam, order)
            summary = drive(
                config,
                run_id,
                store,
                launcher,
                max_parallel=len(config["steps"]),
                keep_going=self.keep_going,
                report=report,
                stop_requested=lambda: stop() and launcher.is_up_to_date(),
                graph=order,
            )
            beam.finish(summary)
            return summary
        finally:
            beam.close(max(float(step["grace_period"] or 0) for step in config["steps"].values()) + SETTLE)

    def _loops_back(self) -> bool:
        """Tell whether Beam's workers are threads of the program that is started here."""
        return str(self._options.get("environment_type", "")).upper() == "LOOPBACK"

    def _spec(self, config: Mapping[str, Any], run_id: str, done: list[str] | None = None) -> dict[str, Any]:
        """Return what ``beam_dag.py`` gets."""
        sha = wire.sha256(wire.dumps(config).encode())
        where = f"{config['store'].rstrip('/')}/configs/{sha}.json"
        if where.partition("://")[0].lower() in BUCKET_SCHEMES:
            env = {"ZEN_RUNNER_CONFIG": f"ref:{where}#sha256={sha}", "ZEN_RUNNER_RUN_ID": run_id}
        else:
            env = {"ZEN_RUNNER_CONFIG_FILE": where, "ZEN_RUNNER_RUN_ID": run_id}
        steps = config["steps"]
        parents = {step: steps[step]["parents"] for step in steps}
        return {
            "runner": self.runner,
            "options": self._options if self.runs_here() else {**self._workers, **self._options},
            "driven": self.runs_here(),
            "steps": [
                {
                    "step": step,
                    "parents": list(parents[step]),
                    "argv": [*self._program, "run", "--step", step],
                    "env": env,
                    "retry": _policy(steps[step]["retry"]),
                    "done": step in (done or ()),
                }
                for step in graph.order(parents)
            ],
        }


def _policy(retry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a retry policy for a reader that has no exit table: the statuses that are retried, and those that are not.

    ``others`` is for a status in neither list, which is the step's own.
    """
    codes = [row.code for row in outcome.TABLE if outcome.is_retried(row.name, row.code, retry["on"])]
    return {
        "limit": retry["limit"],
        "backoff": retry["backoff"],
        "codes": codes,
        "never": [row.code for row in outcome.TABLE if row.code not in codes],
        "others": outcome.USER in retry["on"],
    }


class _Beam:
    """Beam's program, seen from the driver: starts it, hears what it says, tells it when the run is over, and ends it.

    Args:
        spec: what it gets.
        store: where its output is left if it fails.
        run: the run's id.
        wake: called, from another thread, when there is news.
        patience: seconds that it may take to be ready, and later for which nothing may run while a step waits for it.

    Attributes:
        reached: the steps whose turn has come, as told by the ParDos; whoever takes one removes it.
        over: the program has ended its job, or itself.
        died: it has ended without a word.
        problem: why it is of no use any more.
    """

    def __init__(self, spec: Mapping[str, Any], store: Store, run: str, wake: Callable[[], None], patience: float) -> None:
        self.reached: deque[str] = deque()
        self.over = self.died = False
        self.problem: ZenRunnerError | None = None
        self._spec = spec
        self._store = store
        self._run = run
        self._wake = wake
        self._patience = patience
        self._since = 0.0  # when something ran last, or a step did not wait
        self._python = os.environ.get("ZEN_RUNNER_PYTHON") or "python3"
        self._folder = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: socket.socket | None = None
        self._control: socket.socket | None = None
        self._last: socket.socket | None = None
        self._reason: str | None = None  # "" or why the run failed, once it is over
        self._ready = self._ended = self._cancelled = False

    def start(self, stop: Callable[[], bool]) -> None:
        """Start the program and return when Beam is imported and takes the options, or ``stop`` says True.

        Raises:
            ConfigError: Beam takes an option or the runner's name not.
            InfraError: the program ended, or is silent.
            PlacementError: there is no Beam.
        """
        import socket
        import subprocess
        import tempfile
        import threading
        from shutil import which

        if which(self._python) is None:
            raise PlacementError(f"no Python for Beam: {self._python!r} is not on PATH; install one or set ZEN_RUNNER_PYTHON")
        base = tempfile.gettempdir()
        self._folder = tempfile.mkdtemp(prefix="zen-beam-", dir=base if len(os.fsencode(base)) < _SUN_PATH - 40 else "/tmp")
        with open(os.path.join(self._folder, "spec.json"), "w", encoding="utf-8") as file:
            file.write(wire.dumps(self._spec))
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(os.path.join(self._folder, "driver.sock"))
        self._listener.listen(64)
        environ = {name: value for name, value in os.environ.items() if name not in NOT_PASSED}
        with open(self._log(), "wb") as log:
            try:
                self._process = subprocess.Popen(
                    [self._python, PROGRAM, self._folder],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environ,
                    start_new_session=True,  # Ctrl-C is for the driver; and all below it can be ended as one group
                )
            except OSError as error:
                raise PlacementError(f"could not start {self._python} for Beam: {error.strerror}") from error
        threading.Thread(target=self._listen, daemon=True).start()
        until = time.monotonic() + self._patience
        while not (self._ready or self.over or stop()):
            if self._process.poll() is not None and self._control is None:
                self._fail("ended")  # before it could say anything
            elif time.monotonic() > until:
                self._fail(f"was not ready after {self._patience:g} s")
            time.sleep(0.02)
        if self.problem is not None and not self._ready:
            raise self.problem

    def check(self) -> None:
        """Raise, once, why the program is of no use any more."""
        if self.problem is not None and not self._ended:
            self._ended = True
            raise self.problem

    def check_idle(self, waiting: bool) -> None:
        """Raise, once, if steps wait for Beam for too long.

        Args:
            waiting: nothing runs, and a step waits for Beam alone.
        """
        now = time.monotonic()
        if not waiting or not self._since:
            self._since = now
        elif now - self._since > self._patience and self.problem is None:
            self._fail(f"was silent for {self._patience:g} s: nothing ran", "steps wait for Beam")
            self.check()

    def cancel(self) -> None:
        """Ask Beam to cancel the job."""
        if not self._cancelled and self._control is not None:
            self._cancelled = True
            _say(self._control, cancel=True)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Tell the last ParDo how the run ended, and give the job some time to end with it."""
        good = summary["class"] == outcome.SUCCESS
        self._ended = True
        self._reason = "" if good else f"the run ended as {summary['class']}: {summary['message']}"
        if self._last is not None:
            _say(self._last, reason=self._reason)
        elif not good and self._spec["driven"]:
            return  # most ParDos may be still to come, and none of them matters
        until = time.monotonic() + SETTLE
        while not self.over and time.monotonic() < until:
            time.sleep(0.005)

    def close(self, patience: float = 0.0) -> None:
        """End the program and all below it.

        Args:
            patience: seconds from SIGTERM to SIGKILL.
        """
        import shutil
        import signal

        process = self._process
        if process is not None:
            for number in (signal.SIGTERM, signal.SIGKILL) if patience else (signal.SIGKILL,):
                try:
                    os.killpg(process.pid, number)
                except OSError:
                    break  # nobody is left
                until = time.monotonic() + patience
                while number == signal.SIGTERM and time.monotonic() < until and _lives(process):
                    time.sleep(0.02)
            process.wait()
            self._process = None
        for connection in (self._listener, self._control, self._last):
            if connection is not None:
                try:
                    connection.shutdown(2)  # wakes the thread
                except OSError:
                    pass
                connection.close()
        self._listener = self._control = self._last = None
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = ""

    def _log(self) -> str:
        return os.path.join(self._folder, "beam.log")

    def _listen(self) -> None:
        """Take what the program and its ParDos say, until the program is gone."""
        import selectors

        selector = selectors.DefaultSelector()
        listener = self._listener
        assert listener is not None
        selector.register(listener, selectors.EVENT_READ)
        heard: dict[socket.socket, bytes] = {}
        try:
            while True:
                for key, _ in selector.select():
                    if key.fileobj is listener:
                        connection, _address = listener.accept()
                        selector.register(connection, selectors.EVENT_READ)
                        heard[connection] = b""
                        continue
                    connection = key.fileobj  # type: ignore[assignment]
                    try:
                        data = connection.recv(65536)
                    except OSError:
                        data = b""
                    if not data:
                        selector.unregister(connection)
                        heard.pop(connection)
                        if connection is self._control:
                            if not self.over and not self._cancelled:
                                self._fail("ended")
                            self.over = True
                            self._wake()
                            return
                        connection.close()
                        continue
                    *lines, heard[connection] = (heard[connection] + data).split(b"\n")
                    for line in lines:
                        self._hear(connection, wire.loads(line.decode()))
        except (OSError, ValueError):
            pass  # closed
        finally:
            selector.close()

    def _hear(self, connection: socket.socket, word: dict[str, Any]) -> None:
        event = word.get("event")
        if "reached" in word:
            self.reached.append(word["reached"])
            _say(connection, ok=True)
        elif "last" in word:
            self._last = connection
            if self._reason is not None:
                _say(connection, reason=self._reason)
        elif "program" in word:
            self._control = connection
        elif event == "ready":
            self._ready = True
        elif event == "refused":
            self._refuse(word)
        elif event == "failed":
            self._fail("failed", word["message"])
        elif event == "ended":
            self.over = True
        self._wake()

    def _refuse(self, word: Mapping[str, Any]) -> None:
        if word["kind"] == "placement":
            self.problem = PlacementError(
                f"Apache Beam is not installed for {self._python} ({word['message']}): pip install apache-beam for that Python, "
                "set ZEN_RUNNER_PYTHON to one that has it, or use the image zen-runner:beam"
            )
        else:
            self.problem = ConfigError(f"Beam refuses this backend's runner or options: {word['message']}")
        self.over = True

    def _exit_code(self) -> int:
        """Return how the program ended, which it just did or is about to; 0 if that does not come to light."""
        import subprocess

        try:
            return self._process.wait(1.0) if self._process is not None else 0
        except subprocess.TimeoutExpired:
            return 0

    def _fail(self, how: str, message: str = "") -> None:
        """Note that the program is of no use, with what it last printed; its whole output goes beside the run's records."""
        try:
            with open(self._log(), "rb") as file:
                printed = file.read()
        except OSError:
            printed = b""
        self.died = not message
        if self.died and (code := self._exit_code()) < 0:
            message = f"it was killed by signal {-code}"
        elif not message and printed.strip():
            message = printed.decode("utf-8", "replace").strip().splitlines()[-1][:500]
        place = ""
        if printed:
            key = f"runs/{self._run}/beam.log"
            try:
                self._store.put(key, printed)
                place = f"; its output: {self._store.url_of(key)}"
            except ZenRunnerError:
                pass  # what happened is the thing to tell
        self.problem = InfraError(f"the Beam job {how} before the run did{': ' if message else ''}{message}{place}")
        self.over = True
        self._wake()


class _Reached(Graph):
    """The order of the steps where Beam has a say in it: a step is taken once Beam has come to it, too."""

    __slots__ = ("_at", "_beam", "_held", "_open")

    def __init__(self, config: Mapping[str, Any], beam: _Beam) -> None:
        super().__init__({step: spec["parents"] for step, spec in config["steps"].items()})
        self._beam = beam
        self._at: set[str] = set()  # where Beam has come to
        self._held: dict[str, None] = {}  # whose parents have ended well, but Beam has not come to them
        self._open: deque[str] = deque()  # to be taken

    def take(self) -> str | None:
        while (step := super().take()) is not None:
            if step in self._at:
                self._open.append(step)
            else:
                self._held[step] = None
        while self._beam.reached:
            step = self._beam.reached.popleft()
            self._at.add(step)
            if step in self._held:
                del self._held[step]
                self._open.append(step)
        return self._open.popleft() if self._open else None

    def held(self) -> bool:
        return bool(self._held)

    def waiting(self) -> list[str]:
        """Return the steps that wait for Beam alone."""
        return list(self._held)


class _Guarded:
    """A launcher beside which Beam lives: its death is the launcher's failure.

    Args:
        launcher: runs the attempts.
        beam: Beam's program.
        order: which steps wait for Beam.
    """

    def __init__(self, launcher: Launcher, beam: _Beam, order: _Reached) -> None:
        self._launcher = launcher
        self._beam = beam
        self._order = order
        self._running = 0
        self.stop = launcher.stop

    def start(self, step: str, memory: int | None) -> None:
        self._launcher.start(step, memory)
        self._running += 1

    def wait(self, timeout: float | None) -> list[dict[str, Any]]:
        self._beam.check()
        self._beam.check_idle(self._order.held() and not self._running)
        ended = self._launcher.wait(timeout)
        self._running -= len(ended)
        return ended

    def close(self) -> None:
        """Leave the launcher open: it is closed, and gives the signals back, when Beam has ended."""


class _Elsewhere:
    """The launcher of a run whose attempts Beam's workers start: it reads in the store what they do.

    The driver's retries and those of the ParDos follow the same policy, so an attempt that the driver starts is one that a
    worker starts as well.

    Args:
        config: the config.
        run: the run's id.
        store: the artifact store.
        beam: Beam's program.
        order: hears which steps have begun.
    """

    def __init__(self, config: Mapping[str, Any], run: str, store: Store, beam: _Beam, order: _Reached) -> None:
        self._run = run
        self._store = store
        self._beam = beam
        self._order = order
        steps = config["steps"]
        self._seen = {step: max(records.attempts(store, run, step), default=0) for step in steps}
        self._expected: set[str] = set()
        self._found: list[dict[str, Any]] = []  # records that the driver has not got yet
        self._grace = max(float(spec["grace_period"] or 0) for spec in steps.values()) + SETTLE
        self._give_up: float | None = None  # when an attempt without a record counts as lost
        self._stopped = self._was_over = False
        self._next = 0.0
        good = records.results(store, run)
        beam.reached.extend(step for step, record in good.items() if record["class"] == outcome.SUCCESS)

    def start(self, step: str, memory: int | None) -> None:
        self._expected.add(step)

    def wait(self, timeout: float | None) -> list[dict[str, Any]]:
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            over = self._beam.over  # before the look: what Beam has ended has its record by then
            looks = time.monotonic() >= self._next or (over and not self._was_over)
            if looks:
                self._was_over = over
                self._next = time.monotonic() + LOOK * (1 if self._store.root is not None else 1 + len(self._expected) / 50)
                if self._look():
                    self._next = 0.0  # the driver is behind Beam
                if over or self._stopped:
                    self._lost()
            if self._beam.reached and not self._stopped:
                return []  # the driver starts these first, so that it waits for them if a record makes it stop
            if self._found:
                found, self._found = self._found, []
                return found
            if self._beam.died:
                self._beam.check()
            if looks and over and not self._stopped and not self._expected and self._order.held():
                self._beam.check()
                raise InfraError(f"Beam's job has ended, but step {self._order.waiting()[0]!r} never began")
            if not self._stopped:
                self._beam.check_idle(self._order.held() and not self._expected)
            if until is not None and time.monotonic() >= until:
                return []
            time.sleep(0.05)

    def stop(self, step: str | None = None) -> None:
        self._stopped = True
        self._beam.cancel()

    def close(self) -> None:
        self.stop()

    def is_up_to_date(self) -> bool:
        """Tell whether the driver knows of all steps that have begun; if not, it will when it takes steps next."""
        if not self._stopped:
            self._look()
        return not self._beam.reached

    def _look(self) -> bool:
        """Take the records that are new, tell the order of steps that have begun, and return whether there is any news."""
        found = []
        for step in [*([] if self._stopped else self._order.waiting()), *self._expected]:
            later = [number for number in records.attempts(self._store, self._run, step) if number > self._seen[step]]
            if not later:
                continue
            if step not in self._expected:
                self._beam.reached.append(step)
            elif (record := records.result(self._store, self._run, step, later[0])) is not None:
                self._seen[step] = later[0]
                self._expected.remove(step)
                found.append(record)
        self._found += sorted(found, key=lambda record: str(record["ended"]))
        return bool(found or (self._beam.reached and not self._stopped))

    def _lost(self) -> None:
        """Make up the records of what won't have one: nobody works on it, or the time to end is over."""
        if self._give_up is None:
            self._give_up = time.monotonic() + self._grace
        for step in list(self._expected):
            begun = max(records.attempts(self._store, self._run, step), default=0) > self._seen[step]
            if begun and time.monotonic() < self._give_up:
                continue
            if self._stopped:
                error: ZenRunnerError = Terminated("the run was stopped")
            else:
                error = self._beam.problem or InfraError("Beam's job has ended, and this step has no record")
            self._expected.remove(step)
            self._found.append(record_of(self._run, step, self._seen[step] + 1, error))


def _say(connection: socket.socket, **word: Any) -> None:
    try:
        connection.sendall(wire.dumps(word).encode() + b"\n")
    except OSError:
        pass  # gone


def _lives(process: subprocess.Popen[bytes]) -> bool:
    """Tell whether anybody of a program's process group lives, beside zombies of the program itself."""
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except OSError:
        return False
    return True
