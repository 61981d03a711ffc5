"""Child processes under watch: one or many, each in its own process group, none left behind.

One loop does it all, without threads: it passes output through, notices the end, keeps deadlines, and turns signals into a
stop of whole process groups. It works as PID 1 (then it also reaps orphans), under an init, and as an ordinary process.
"""

from __future__ import annotations

import os
import select
import sys
from time import monotonic

from entrypoint.runtime.proc import find_program, has_living, read_io

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from entrypoint.runtime.usage import Tree

    Io = tuple[int, int, int, int]
else:
    import _signal as signal


STDOUT, STDERR = 1, 2
CHUNK = 65536  # bytes a read: a Linux pipe's default capacity
PIPE_BUF = 4096  # POSIX's PIPE_BUF on Linux: what poll() promises a writer can take without blocking
TAIL = 2048  # bytes of output kept for the record
KILL_WAIT = 5.0  # seconds that output may still come after SIGKILL, before pipes are closed on whoever holds them
LEFTOVER_GRACE = 2.0  # seconds for background processes of a step whose own process has ended
SAMPLE_AFTER = 1.0  # seconds until a step's use is looked at; a shorter one is none the slower for it
_CAN_PEEK = hasattr(os, "waitid")  # not on macOS before Python 3.13
# What is passed on to the step beside the stop signals, as tini and dumb-init do.
FORWARDED = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)
# CPython ignores these; a program that we start must find them as a shell would leave them.
_RESET = tuple(number for number in (signal.SIGPIPE, getattr(signal, "SIGXFSZ", None)) if number is not None)


class Process:
    """One supervised child and what is known of it.

    ``status`` is None while it runs, then 0..255, or 128 + N if signal N ended it (``signal`` is N then). ``reason`` says who
    ended it: None for itself, else what ``stop`` was given, or ``timeout``. ``tree`` is there once its use was looked at.
    """

    __slots__ = (
        "_deadline",
        "_drain_until",
        "_fds",
        "_grace",
        "_kill_at",
        "cpu_seconds",
        "ended",
        "io",
        "max_rss",
        "output",
        "pid",
        "reason",
        "signal",
        "started",
        "status",
        "tail",
        "tree",
    )

    def __init__(
        self, pid: int, fds: dict[int, int], output: Callable[[int, bytes], None], timeout: float | None, grace: float
    ) -> None:
        self.pid = pid
        self.output = output
        self.started = monotonic()
        self.ended = 0.0
        self.status: int | None = None
        self.signal: int | None = None
        self.reason: str | None = None
        self.tail = b""
        self.cpu_seconds = 0.0
        self.max_rss = 0
        self.io: Io | None = None
        self.tree: Tree | None = None
        self._fds = fds
        self._grace = grace
        self._deadline = None if timeout is None else self.started + timeout
        self._kill_at: float | None = None
        self._drain_until: float | None = None

    def _signal_group(self, number: int) -> bool:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        except PermissionError:  # macOS's answer for a group of zombies; a set-uid child's on Linux
            return self.status is None
        return True


class Supervisor:
    """Starts processes and watches them; one a process of ours, used from the main thread.

    Args:
        also_stop: signals that stop everything, beside SIGTERM and SIGINT; others are only passed on.
    """

    def __init__(self, also_stop: Sequence[int] = ()) -> None:
        while True:  # a pipe that landed on a closed 0, 1 or 2 would be given to a step as its stdin or stdout
            null = os.open(os.devnull, os.O_RDWR)
            if null > STDERR:
                os.close(null)
                break
            os.set_inheritable(null, True)
        self.stopped_by: int | None = None  # the first stop signal that came
        self._processes: dict[int, Process] = {}
        self._is_init = os.getpid() == 1
        self._woken = False
        self._dead_streams: set[int] = set()
        self._beats: list[Callable[[], None]] = []
        self._sample_at: float | None = None
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._previous: dict[int, Any] = {}
        self._previous_wake = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._handle(signal.SIGCHLD, lambda number, frame: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handle(number, self._on_stop)
        for number in FORWARDED:
            if signal.getsignal(number) == signal.SIG_DFL:  # one that nohup or a shell ignores stays ignored
                self._handle(number, self._on_stop if number in also_stop else self._on_other)

    def close(self) -> None:
        """Give the signals back. Processes still running are killed."""
        self.kill()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.set_wakeup_fd(self._previous_wake)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._wake_read)
        os.close(self._wake_write)

    def kill(self) -> None:
        """End all processes at once."""
        for process in list(self._processes.values()):
            self.stop(process, "terminated", now=True)
        while self._processes:
            self.poll(1.0)

    def beat(self, every: float, call: Callable[[], None]) -> None:
        """Call something every so many seconds until ``unbeat``, also while this process is busy with a large file.

        It runs in the main thread, between two of its steps, as a signal's handler; so it must be short.
        """
        self._beats.append(call)
        if len(self._beats) == 1:
            self._handle(signal.SIGALRM, lambda number, frame: [beat() for beat in list(self._beats)])
            signal.setitimer(signal.ITIMER_REAL, every, every)

    def unbeat(self, call: Callable[[], None]) -> None:
        """Call it no more."""
        if call in self._beats:
            self._beats.remove(call)
            if not self._beats:
                signal.setitimer(signal.ITIMER_REAL, 0)

    def spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        output: Callable[[int, bytes], None],
        timeout: float | None = None,
        grace: float = 30.0,
    ) -> Process:
        """Start a program in the working directory, in a process group of its own, with no stdin.

        Args:
            argv: the program and its arguments; the program is looked up in ``env``'s PATH.
            env: its whole environment.
            output: called with (1 or 2, bytes) for all that it prints.
            timeout: seconds until it is stopped with the reason ``timeout``.
            grace: seconds from SIGTERM to SIGKILL.

        Raises:
            OSError: it can't be started; the errno says why.
        """
        program = find_program(argv[0], env.get("PATH", os.defpath))
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        try:
            pid = os.posix_spawn(
                program,
                list(argv),
                dict(env),
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, out_write, STDOUT),
                    (os.POSIX_SPAWN_DUP2, err_write, STDERR),
                ],
                setpgroup=0,
                setsigmask=(),
                setsigdef=_RESET,
            )
        except BaseException:
            os.close(out_read)
            os.close(err_read)
            raise
        finally:
            os.close(out_write)
            os.close(err_write)
        os.set_blocking(out_read, False)
        os.set_blocking(err_read, False)
        process = Process(pid, {out_read: STDOUT, err_read: STDERR}, output, timeout, grace)
        self._processes[pid] = process
        if self._sample_at is None:
            self._sample_at = process.started + SAMPLE_AFTER
        if self.stopped_by is not None:  # the signal came between the caller's last look and now
            self.stop(process, "terminated")
        return process

    def stop(self, process: Process, reason: str, number: int = signal.SIGTERM, now: bool = False) -> None:
        """Ask a process group to end, and kill it when its grace period is over, or ``now``; once asked, only ``now`` counts."""
        if process.status is not None:
            return
        if process.reason is None:
            process.reason = reason
            process._kill_at = monotonic() + process._grace
            process._signal_group(number)
            process._signal_group(signal.SIGCONT)  # a stopped process would sleep through SIGTERM
        if now:
            process._kill_at = monotonic()

    def wake(self) -> None:
        """Make a ``poll`` with a timeout return at once, this one or the next; from any thread."""
        self._woken = True
        try:
            os.write(self._wake_write, b"\0")
        except OSError:
            pass  # it is full, or closed: nobody waits

    def poll(self, timeout: float | None = None) -> list[Process]:
        """Wait until processes end, and return them.

        Args:
            timeout: seconds; then, or once a stop signal came, nobody may have ended. None waits for an end.
        """
        until = None if timeout is None else monotonic() + (0.0 if self._woken else timeout)
        while True:
            ended = self._service(until)
            if ended or (until is None and not self._processes):
                return ended
            if until is not None and (monotonic() >= until or self.stopped_by is not None or self._woken):
                self._woken = False
                return ended

    def write(self, fd: int, data: bytes) -> None:
        """Write all of ``data`` to one of our own streams, and keep serving signals and deadlines while its reader is slow.

        A reader that has gone away is no error: the bytes are in the step's log.
        """
        view = memoryview(data)
        gave_up = None
        poller = select.poll()
        poller.register(fd, select.POLLOUT)
        while view and fd not in self._dead_streams:
            if not poller.poll(200):
                self._signals_and_deadlines()
                running = any(process.status is None and process._kill_at is None for process in self._processes.values())
                gave_up = None if running else gave_up or monotonic() + KILL_WAIT
                if gave_up is not None and monotonic() > gave_up:
                    self._dead_streams.add(fd)  # everything is over but a reader that reads nothing
                continue
            try:
                view = view[os.write(fd, view[:PIPE_BUF]) :]
            except BlockingIOError:
                continue  # somebody made the stream non-blocking; poll will tell
            except OSError:
                self._dead_streams.add(fd)

    def _handle(self, number: int, handler: Callable[[int, object], object]) -> None:
        self._previous.setdefault(number, signal.signal(number, handler))

    def _on_stop(self, number: int, frame: object) -> None:
        again = self.stopped_by is not None and number == signal.SIGINT  # Ctrl-C twice: no more patience
        if self.stopped_by is None:
            self.stopped_by = number
        for process in list(self._processes.values()):
            self.stop(process, "terminated", number, now=again)

    def _on_other(self, number: int, frame: object) -> None:
        for process in list(self._processes.values()):
            if process.status is None:
                process._signal_group(number)

    def _service(self, until: float | None) -> list[Process]:
        """One turn of the loop: wait for something, read what was printed, see to deadlines and ends."""
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        owner: dict[int, Process] = {}
        deadlines = [at for at in (until, self._sample_at) if at is not None]
        for process in self._processes.values():
            for fd in process._fds:
                poller.register(fd, select.POLLIN)
                owner[fd] = process
            deadlines += [at for at in (process._deadline, process._kill_at) if at is not None]
            if process._drain_until is not None:  # the last of a group can end without a SIGCHLD to us
                deadlines.append(monotonic() + 0.01)
        wait = None if not deadlines else max(0.0, min(deadlines) - monotonic()) * 1000
        # Rounded up, or the loop would spin through the last millisecond before a deadline.
        for fd, _ in poller.poll(None if wait is None else int(wait) + 1):
            if fd != self._wake_read:
                self._read(owner[fd], fd)
        self._signals_and_deadlines()
        return self._ends()

    def _read(self, process: Process, fd: int) -> bool:
        """Pass one chunk on; return whether there was any."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            process._fds.pop(fd)
            os.close(fd)
            return False
        process.tail = (process.tail + data)[-TAIL:]
        process.output(process._fds[fd], data)
        return True

    def _signals_and_deadlines(self) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass
        now = monotonic()
        for process in list(self._processes.values()):
            if process._deadline is not None and now >= process._deadline:
                process._deadline = None
                self.stop(process, "timeout")
            if process._kill_at is not None and now >= process._kill_at:
                process._kill_at = None
                process._signal_group(signal.SIGKILL)
        self._reap()
        if self._sample_at is not None and now >= self._sample_at:
            self._sample_at = self._sample(now)

    def _sample(self, now: float) -> float | None:
        """Look at what the running processes use; return when to look again, None once none is running."""
        running = [process for process in self._processes.values() if process.status is None]
        if not running:
            return None
        from entrypoint.runtime import usage as accounting

        return now + accounting.sample(running)

    def _reap(self) -> None:
        pids = [-1] if self._is_init else [pid for pid, process in self._processes.items() if process.status is None]
        for wanted in pids:
            while True:
                io = None
                try:
                    if _CAN_PEEK:  # the kernel keeps the counts of I/O until a process is waited for, and hands over none
                        ended = os.waitid(
                            os.P_ALL if wanted == -1 else os.P_PID, max(wanted, 0), os.WEXITED | os.WNOHANG | os.WNOWAIT
                        )
                        if ended is None:
                            break
                        io = read_io(ended.si_pid) if ended.si_pid in self._processes else None
                        pid, status, usage = os.wait4(ended.si_pid, os.WNOHANG)
                    else:
                        pid, status, usage = os.wait4(wanted, os.WNOHANG)
                except ChildProcessError:
                    break
                if pid == 0:
                    break
                process = self._processes.get(pid)
                if process is not None and process.status is None:
                    code = os.waitstatus_to_exitcode(status)
                    process.signal = -code if code < 0 else None
                    process.status = 128 - code if code < 0 else code
                    process.ended = monotonic()
                    process.cpu_seconds = usage.ru_utime + usage.ru_stime
                    process.io = io
                    process.max_rss = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
                    process._deadline = None
                if wanted != -1:
                    break

    def _ends(self) -> list[Process]:
        """See to processes whose own process has ended: drain them, end what they left in the background, hand them over."""
        over = []
        for pid, process in list(self._processes.items()):
            if process.status is None:
                continue
            for fd in list(process._fds):
                while self._read(process, fd):
                    pass
            now = monotonic()
            if process._drain_until is None and process._signal_group(0) and has_living(pid):
                if process.reason is None:
                    process._signal_group(signal.SIGTERM)
                    process._drain_until = now + LEFTOVER_GRACE
                else:  # they got their SIGTERM, and have what is left of the grace period
                    process._drain_until = process._kill_at or now
                continue
            if process._drain_until is not None and now < process._drain_until and has_living(pid):
                continue
            if process._drain_until is not None:
                process._signal_group(signal.SIGKILL)
                for fd in list(process._fds):
                    while self._read(process, fd):
                        pass
            for fd in list(process._fds):  # held by a process that left the group
                os.close(fd)
                process._fds.pop(fd)
            del self._processes[pid]
            over.append(process)
        return over
