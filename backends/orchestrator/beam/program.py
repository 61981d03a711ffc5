"""The Beam program of a pipeline, as a process that is watched."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections import deque
from enum import Enum

from backends import outcome, wire
from backends.errors import ConfigError, InfraError, PlacementError, ZenRunnerError
from backends.orchestrator.beam.listener import Listener, close, say
from backends.orchestrator.driven.spawn import driver_environment
from backends.store import keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping
    from typing import Any

    from backends.store.base import Store


SETTLE = 10.0  # seconds, beside the steps' grace period, that Beam's job and its attempts have to end
PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pipeline.py")
SUN_PATH = 100  # bytes that a socket's path may have, a little less than Linux's 108 and macOS's 104


class State(Enum):
    """How far Beam's program has come.

    STARTING until Beam is imported and takes the options, then READY until its job is over. ENDED: by itself, or after somebody
    cancelled it. The others have a ``problem``: UNUSABLE before it was ready, FAILED with a word on why, DIED without one.
    """

    STARTING = 0
    READY = 1
    ENDED = 2
    UNUSABLE = 3
    FAILED = 4
    DIED = 5


class BeamProgram:
    """Beam's program, seen from the driver: starts it, hears what it says, tells it when the run is over, and ends it.

    Args:
        spec: what it gets.
        store: where its output is left if it fails.
        run: the run's id.
        wake: called, from another thread, when there is news.
        patience: seconds that it may take to be ready, and later for which nothing may run while a step waits for it.

    Attributes:
        reached: the steps whose turn has come, as told by the ParDos; whoever takes one removes it.
        state: how far it has come.
        problem: why it is of no use any more.
    """

    def __init__(self, spec: Mapping[str, Any], store: Store, run: str, wake: Callable[[], None], patience: float) -> None:
        self.reached: deque[str] = deque()
        self.state = State.STARTING
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
        self._listener: Listener | None = None
        self._control: socket.socket | None = None
        self._last: socket.socket | None = None
        self._reason: str | None = None  # "" or why the run failed, once it is over
        self._is_told = False  # whoever checks has heard of the problem, or the run is over
        self._is_cancelled = False

    @property
    def over(self) -> bool:
        """Whether the program has ended its job, or itself."""
        return self.state not in (State.STARTING, State.READY)

    def start(self, stop: Callable[[], bool]) -> None:
        """Start the program and return when Beam is imported and takes the options, or ``stop`` says True.

        Raises:
            ConfigError: Beam takes an option or the runner's name not.
            InfraError: the program ended, or is silent.
            PlacementError: there is no Beam.
        """
        if shutil.which(self._python) is None:
            raise PlacementError(f"no Python for Beam: {self._python!r} is not on PATH; install one or set ZEN_RUNNER_PYTHON")
        base = tempfile.gettempdir()
        self._folder = tempfile.mkdtemp(prefix="zen-beam-", dir=base if len(os.fsencode(base)) < SUN_PATH - 40 else "/tmp")
        with open(os.path.join(self._folder, "spec.json"), "w", encoding="utf-8") as file:
            file.write(wire.dumps(self._spec))
        self._listener = Listener(os.path.join(self._folder, "driver.sock"), self._hear, self._gone)
        self._process = self._spawn()
        self._listener.start()
        until = time.monotonic() + self._patience
        while self.state is State.STARTING and not stop():
            if self._process.poll() is not None and self._control is None:
                self._fail("ended")  # before it could say anything
            elif time.monotonic() > until:
                self._fail(f"was not ready after {self._patience:g} s")
            time.sleep(0.02)
        if self.state is State.UNUSABLE and self.problem is not None:
            raise self.problem

    def _spawn(self) -> subprocess.Popen[bytes]:
        with open(self._log(), "wb") as log:
            try:
                return subprocess.Popen(
                    [self._python, PROGRAM, self._folder],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=driver_environment(),
                    start_new_session=True,  # Ctrl-C is for the driver; and all below it can be ended as one group
                )
            except OSError as error:
                raise PlacementError(f"could not start {self._python} for Beam: {error.strerror}") from error

    def check(self) -> None:
        """Raise, once, why the program is of no use any more."""
        if self.problem is not None and not self._is_told:
            self._is_told = True
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
        if not self._is_cancelled and self._control is not None:
            self._is_cancelled = True
            say(self._control, cancel=True)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Tell the last ParDo how the run ended, and give the job some time to end with it."""
        good = summary["class"] == outcome.SUCCESS
        self._is_told = True
        self._reason = "" if good else f"the run ended as {summary['class']}: {summary['message']}"
        if self._last is not None:
            say(self._last, reason=self._reason)
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
        if self._listener is not None:
            self._listener.close()
        for connection in (self._control, self._last):
            if connection is not None:
                close(connection)
        self._listener = self._control = self._last = None
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = ""

    def _log(self) -> str:
        return os.path.join(self._folder, "beam.log")

    def _hear(self, connection: socket.socket, word: dict[str, Any]) -> None:
        event = word.get("event")
        if "reached" in word:
            self.reached.append(word["reached"])
            say(connection, ok=True)
        elif "last" in word:
            self._last = connection
            if self._reason is not None:
                say(connection, reason=self._reason)
        elif "program" in word:
            self._control = connection
        elif event == "ready" and self.state is State.STARTING:
            self.state = State.READY
        elif event == "refused":
            self._refuse(word)
        elif event == "failed":
            self._fail("failed", word["message"])
        elif event == "ended" and not self.over:
            self.state = State.ENDED
        self._wake()

    def _gone(self, connection: socket.socket) -> bool:
        """Take note of a connection that was closed, and return whether it was the program's own, with which all ends."""
        if connection is not self._control:
            connection.close()
            return False
        if not self.over:
            if self._is_cancelled:
                self.state = State.ENDED
            else:
                self._fail("ended")
        self._wake()
        return True

    def _refuse(self, word: Mapping[str, Any]) -> None:
        if word["kind"] == "placement":
            self.problem = PlacementError(
                f"Apache Beam is not installed for {self._python} ({word['message']}): pip install apache-beam for that Python, "
                "set ZEN_RUNNER_PYTHON to one that has it, or use the image zen-runner:beam"
            )
        else:
            self.problem = ConfigError(f"Beam refuses this backend's runner or options: {word['message']}")
        self.state = State.UNUSABLE

    def _exit_code(self) -> int:
        """Return how the program ended, which it just did or is about to; 0 if that does not come to light."""
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
        is_silent = not message
        if is_silent and (code := self._exit_code()) < 0:
            message = f"it was killed by signal {-code}"
        elif not message and printed.strip():
            message = printed.decode("utf-8", "replace").strip().splitlines()[-1][:500]
        place = ""
        if printed:
            key = keys.beam_log(self._run)
            try:
                self._store.put(key, printed)
                place = f"; its output: {self._store.url_of(key)}"
            except ZenRunnerError:
                pass  # what happened is the thing to tell
        self.problem = InfraError(f"the Beam job {how} before the run did{': ' if message else ''}{message}{place}")
        if self.state is State.STARTING:
            self.state = State.UNUSABLE
        else:
            self.state = State.DIED if is_silent else State.FAILED
        self._wake()


def _lives(process: subprocess.Popen[bytes]) -> bool:
    """Return whether anybody of a program's process group lives, beside zombies of the program itself."""
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except OSError:
        return False
    return True
