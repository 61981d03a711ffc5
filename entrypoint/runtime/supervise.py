"""Child processes under watch: one or many, each in its own session, none left behind.

One loop in the main thread does it all: it passes output through, notices the end, keeps deadlines, and turns signals into a stop
of whole process groups. What may take its time, such as a store, is for other threads, which start processes here. It works as
PID 1 (then it also reaps orphans), under an init, and as an ordinary process.
"""

from __future__ import annotations

import _thread
import os
import select
from time import monotonic

from entrypoint.runtime.child import STDERR, STDOUT, Process, start
from entrypoint.runtime.proc import read_io

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any
else:
    import _signal as signal


PIPE_BUF = 4096  # POSIX's PIPE_BUF on Linux: what poll() promises a writer can take without blocking
KILL_WAIT = 5.0  # seconds that output may still come after SIGKILL, before pipes are closed on whoever holds them
STOP_WAIT = 0.3  # seconds that a reader of ours which takes nothing is waited for once a stop signal came
SAMPLE_AFTER = 1.0  # seconds until a step's use is looked at; a shorter one is none the slower for it
_CAN_PEEK = hasattr(os, "waitid")  # not on macOS before Python 3.13
# What is passed on to the step beside the stop signals, as tini and dumb-init do.
FORWARDED = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)


class Supervisor:
    """Starts processes, from any thread, and watches them in the main thread; one per process of ours.

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
        self.is_one_stream = _same_file(STDOUT, STDERR)  # then one pipe carries both, in the order in which they were written
        self.stopped_by: int | None = None  # the first stop signal that came
        self.stopped_at: float | None = None  # when, on the monotonic clock
        self.is_impatient = False  # Ctrl-C came twice
        self._spawning = _thread.allocate_lock()  # else init could reap a child before it is known
        self._processes: dict[int, Process] = {}
        self._is_init = os.getpid() == 1
        self._woken = False
        self._dead_streams: set[int] = set()
        self._beats: list[Callable[[], None]] = []
        self._sample_at: float | None = None
        self._turns = 0  # of the loop
        self._unheard: int | None = None  # the turn at which something lay in the pipe, at the last look of another thread
        self._heard: set[int] = set()  # signals that another thread has noted; Python's handler will come to them
        self._stops = {signal.SIGTERM, signal.SIGINT, *also_stop}
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._previous: dict[int, Any] = {}
        self._previous_wake = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._handle(signal.SIGCHLD, lambda number, frame: None)
        self._handle(signal.SIGALRM, lambda number, frame: [beat() for beat in list(self._beats)])
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handle(number, self._on_stop)
        for number in FORWARDED:
            if signal.getsignal(number) == signal.SIG_DFL:  # one that nohup or a shell ignores stays ignored
                self._handle(number, self._on_stop if number in also_stop else self._on_other)

    def close(self) -> None:
        """Give the signals back. Processes still running are killed."""
        self.kill()
        self._silence()
        del self._previous[signal.SIGALRM]
        signal.set_wakeup_fd(self._previous_wake)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._wake_read)
        os.close(self._wake_write)

    def deafen(self) -> None:
        """Pass over what may still come: all is said, and the exit status is to be that of the record."""
        for number in self._stops:
            signal.signal(number, signal.SIG_IGN)
        self._silence()

    def _silence(self) -> None:
        """End the beats. A thread that was given up on may begin one even now, and its signal's default is death, to which
        the interpreter returns at its end.
        """
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)

    def kill(self) -> None:
        """End all processes at once."""
        for process in list(self._processes.values()):
            process.stop("terminated", now=True)
        while self._processes:
            self.poll(1.0)

    def beat(self, every: float, call: Callable[[], None]) -> None:
        """Call something every so many seconds until ``unbeat``; from any thread.

        It runs in the main thread, between two of its steps, as a signal's handler; so it must be short.
        """
        self._beats.append(call)
        if len(self._beats) == 1:
            signal.setitimer(signal.ITIMER_REAL, every, every)

    def unbeat(self, call: Callable[[], None]) -> None:
        """Call it no more; the timer goes on, since another thread may just begin."""
        if call in self._beats:
            self._beats.remove(call)

    def spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        output: Callable[[int, bytes], None],
        timeout: float | None = None,
        grace: float = 30.0,
    ) -> Process:
        """Start a program in the working directory, in a session of its own, with no stdin and no terminal.

        Args:
            argv: the program and its arguments; the program is looked up in ``env``'s PATH.
            env: its whole environment.
            output: called with (1 or 2, bytes) for all that it prints.
            timeout: seconds until it is stopped with the reason ``timeout``.
            grace: seconds from SIGTERM to SIGKILL.

        Raises:
            OSError: it can't be started; the errno says why.
        """
        with self._spawning:
            process = start(argv, env, output, timeout, grace, is_one_stream=self.is_one_stream)
            self._processes[process.pid] = process
        if self._sample_at is None:
            self._sample_at = process.started + SAMPLE_AFTER
        if self.stopped_by is not None:  # the signal came between the caller's last look and now
            process.stop("terminated")
        self._nudge()
        return process

    def wake(self) -> None:
        """Make a ``poll`` with a timeout return at once, this one or the next; from any thread."""
        self._woken = True
        self._nudge()

    def _nudge(self) -> None:
        """Have the loop look at everything anew."""
        try:
            os.write(self._wake_write, b"\0")
        except OSError:
            pass  # it is full, or closed: nobody waits

    def hear(self) -> None:
        """Note stop signals that the main thread leaves unheard, being in a call that does not return; asked often by a thread.

        The kernel's handler writes their numbers into the pipe at once; Python's runs in the main thread alone.
        """
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        unheard = self._turns if poller.poll(0) else None
        before, self._unheard = self._unheard, unheard
        if unheard is None or unheard != before:
            return  # nothing is there, or the main thread has come round since the last look
        try:
            numbers = os.read(self._wake_read, 4096)
        except OSError:
            return
        self._nudge()
        for number in self._stops.intersection(numbers):
            self._on_stop(number, None)
            self._heard.add(number)

    def kill_groups(self) -> None:
        """Kill all processes without waiting for their end; from any thread."""
        for process in list(self._processes.values()):
            process.signal_group(signal.SIGKILL)

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
        idle_since = monotonic()
        poller = select.poll()
        poller.register(fd, select.POLLOUT)
        while view and fd not in self._dead_streams:
            if not poller.poll(100):
                self._signals_and_deadlines()
                if self.stopped_by is None and any(process.is_left_alone() for process in list(self._processes.values())):
                    idle_since = monotonic()
                elif monotonic() > idle_since + (KILL_WAIT if self.stopped_by is None else STOP_WAIT):
                    self._dead_streams.add(fd)  # everything is over but a reader that reads nothing
                continue
            try:
                view = view[os.write(fd, view[:PIPE_BUF]) :]
                idle_since = monotonic()
            except BlockingIOError:
                continue  # somebody made the stream non-blocking; poll will tell
            except OSError:
                self._dead_streams.add(fd)

    def _handle(self, number: int, handler: Callable[[int, object], object]) -> None:
        self._previous.setdefault(number, signal.signal(number, handler))

    def _on_stop(self, number: int, frame: object) -> None:
        if number in self._heard:
            self._heard.remove(number)
            return
        if self.stopped_by is None:
            self.stopped_at = monotonic()
            self.stopped_by = number
        elif number == signal.SIGINT:
            self.is_impatient = True
        for process in list(self._processes.values()):
            process.stop("terminated", number, now=self.is_impatient)

    def _on_other(self, number: int, frame: object) -> None:
        for process in list(self._processes.values()):
            if process.status is None:
                process.signal_group(number)

    def _service(self, until: float | None) -> list[Process]:
        """One turn of the loop: wait for something, read what was printed, see to deadlines and ends."""
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        owner: dict[int, Process] = {}
        deadlines = [at for at in (until, self._sample_at) if at is not None]
        for process in list(self._processes.values()):
            for fd in process.fds:
                poller.register(fd, select.POLLIN)
                owner[fd] = process
            deadlines += process.deadlines()
        wait = None if not deadlines else max(0.0, min(deadlines) - monotonic()) * 1000
        # Rounded up, or the loop would spin through the last millisecond before a deadline.
        for fd, _ in poller.poll(None if wait is None else int(wait) + 1):
            if fd != self._wake_read:
                owner[fd].read(fd)
        self._signals_and_deadlines()
        return self._ends()

    def _signals_and_deadlines(self) -> None:
        self._turns += 1
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass
        now = monotonic()
        for process in list(self._processes.values()):
            process.keep_deadlines(now)
        self._reap()
        if self._sample_at is not None and now >= self._sample_at:
            self._sample_at = self._sample(now)

    def _sample(self, now: float) -> float | None:
        """Look at what the running processes use; return when to look again, None once none is running."""
        running = {pid: process.tree for pid, process in list(self._processes.items()) if process.status is None}
        if not running:
            return None
        from entrypoint.runtime import usage

        trees, pause = usage.sample(running)
        for pid, tree in trees.items():
            self._processes[pid].tree = tree
        return now + pause

    def _reap(self) -> None:
        if self._is_init:
            with self._spawning:
                return self._reap_of([-1])
        return self._reap_of([pid for pid, process in list(self._processes.items()) if process.status is None])

    def _reap_of(self, pids: list[int]) -> None:
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
                    process.reaped(status, usage, io)
                if wanted != -1:
                    break

    def _ends(self) -> list[Process]:
        """Hand over the processes of which nothing is left."""
        over = []
        for pid, process in list(self._processes.items()):
            if process.is_over():
                del self._processes[pid]  # at once: output of the next may be slow to pass on, and signals are served meanwhile
                process.gone()
                over.append(process)
        return over


def _same_file(one: int, other: int) -> bool:
    first, second = os.fstat(one), os.fstat(other)
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)
