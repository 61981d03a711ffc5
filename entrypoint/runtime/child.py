"""One supervised child process: its group, its output, its deadlines, and what is known of it."""

from __future__ import annotations

import _thread
import os
import sys
from time import monotonic

from entrypoint.runtime.proc import find_program, has_living

TYPE_CHECKING = False
if TYPE_CHECKING:
    import resource
    import signal
    from collections.abc import Callable, Mapping, Sequence

    from entrypoint.runtime.proc import Io
    from entrypoint.runtime.usage import Tree
else:
    import _signal as signal


STDOUT, STDERR = 1, 2
CHUNK = 65536  # bytes a read: a Linux pipe's default capacity
TAIL = 2048  # bytes of output kept for the record
LEFTOVER_GRACE = 2.0  # seconds for background processes of a step whose own process has ended
# CPython ignores these; a program that we start must find them as a shell would leave them.
_RESET = tuple(number for number in (signal.SIGPIPE, getattr(signal, "SIGXFSZ", None)) if number is not None)


class Process:
    """One supervised child and what is known of it.

    Args:
        pid: the child, which leads a process group.
        fds: the pipes that it prints to, and which of 1 and 2 each is; not blocking.
        output: called with (1 or 2, bytes) for all that it prints.
        timeout: seconds until it is stopped with the reason ``timeout``.
        grace: seconds from SIGTERM to SIGKILL.

    Attributes:
        status: None while it runs, then 0..255, or 128 + N if signal N ended it (``signal`` is N then).
        reason: who ended it: None for itself, else what `stop` was given, or ``timeout``.
        tree: what its processes use, once that was looked at.
        is_gone: nothing is left of it.
    """

    def __init__(
        self, pid: int, fds: dict[int, int], output: Callable[[int, bytes], None], timeout: float | None, grace: float
    ) -> None:
        self.pid = pid
        self.fds = fds
        self.started = monotonic()
        self.status: int | None = None
        self.signal: int | None = None
        self.reason: str | None = None
        self.tail = b""
        self.cpu_seconds = 0.0
        self.max_rss = 0
        self.io: Io | None = None
        self.tree: Tree | None = None
        self._output = output
        self._grace = grace
        self._deadline = None if timeout is None else self.started + timeout
        self._kill_at: float | None = None
        self._drain_until: float | None = None
        self.is_gone = False
        self._gone = _thread.allocate_lock()
        self._gone.acquire()

    def wait(self) -> None:
        """Wait until nothing is left of it; in any thread but the one that watches it."""
        with self._gone:
            pass

    def gone(self) -> None:
        """Note that nothing is left of it."""
        self.is_gone = True
        self._gone.release()

    def is_left_alone(self) -> bool:
        """Return whether it runs, and nobody has asked it to end."""
        return self.status is None and self._kill_at is None

    def signal_group(self, number: int) -> bool:
        """Send a signal to all of the group, and return whether it has members."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        except PermissionError:  # macOS's answer for a group of zombies; a set-uid child's on Linux
            return self.status is None
        return True

    def stop(self, reason: str, number: int = signal.SIGTERM, *, now: bool = False) -> None:
        """Ask the group to end, and kill it when its grace period is over, or ``now``; once asked, only ``now`` counts."""
        if self.status is not None:
            return
        if self.reason is None:
            self.reason = reason
            self._kill_at = monotonic() + self._grace
            self.signal_group(number)
            self.signal_group(signal.SIGCONT)  # a stopped process would sleep through SIGTERM
        if now:
            self._kill_at = monotonic()

    def deadlines(self) -> list[float]:
        """Return when it has to be looked at again, even if nothing happens."""
        times = [at for at in (self._deadline, self._kill_at) if at is not None]
        if self._drain_until is not None:  # the last of a group can end without a SIGCHLD to us
            times.append(monotonic() + 0.01)
        return times

    def keep_deadlines(self, now: float) -> None:
        """Stop it if its time is up, and kill it if its grace period is over."""
        if self._deadline is not None and now >= self._deadline:
            self._deadline = None
            self.stop("timeout")
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            self.signal_group(signal.SIGKILL)

    def read(self, fd: int) -> bool:
        """Pass one chunk of output on, and return whether there was any."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.fds.pop(fd)
            os.close(fd)
            return False
        self.tail = (self.tail + data)[-TAIL:]
        self._output(self.fds[fd], data)
        return True

    def reaped(self, status: int, usage: resource.struct_rusage, io: Io | None) -> None:
        """Take in what the kernel says of the child's end."""
        code = os.waitstatus_to_exitcode(status)
        self.signal = -code if code < 0 else None
        self.status = 128 - code if code < 0 else code
        self.cpu_seconds = usage.ru_utime + usage.ru_stime
        self.io = io
        self.max_rss = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        self._deadline = None

    def is_over(self) -> bool:
        """Drain a child that has ended, end what it left in the background, and return whether nothing is left of it."""
        if self.status is None:
            return False
        self._drain()
        now = monotonic()
        if self._drain_until is None and self.signal_group(0) and has_living(self.pid):
            if self.reason is None:
                self.signal_group(signal.SIGTERM)
                self._drain_until = now + LEFTOVER_GRACE
            else:  # they got their SIGTERM, and have what is left of the grace period
                self._drain_until = self._kill_at or now
            return False
        if self._drain_until is not None and now < self._drain_until and has_living(self.pid):
            return False
        if self._drain_until is not None:
            self.signal_group(signal.SIGKILL)
            self._drain()
        for fd in list(self.fds):  # held by a process that left the group
            os.close(fd)
            self.fds.pop(fd)
        return True

    def _drain(self) -> None:
        for fd in list(self.fds):
            while self.read(fd):
                pass


def start(
    argv: Sequence[str],
    env: Mapping[str, str],
    output: Callable[[int, bytes], None],
    timeout: float | None,
    grace: float,
    *,
    is_one_stream: bool,
) -> Process:
    """Start a program as `Supervisor.spawn` describes, its output in one pipe or in two."""
    program = find_program(argv[0], env.get("PATH", os.defpath))
    out_read, out_write = os.pipe()
    err_read, err_write = (out_read, out_write) if is_one_stream else os.pipe()
    streams = {out_read: STDOUT}
    streams.setdefault(err_read, STDERR)
    for fd in streams:
        os.set_blocking(fd, False)
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
            setsid=True,  # a step that reads the terminal would be stopped by the kernel, and sleep for ever
            setsigmask=(),
            setsigdef=_RESET,
        )
        return Process(pid, streams, output, timeout, grace)
    except BaseException:
        for fd in streams:
            os.close(fd)
        raise
    finally:
        for fd in {out_write, err_write}:
            os.close(fd)
