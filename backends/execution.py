"""One execution of a pipeline: what an orchestrator is handed, what starts attempts for it, and who hears of it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Protocol

    from backends.store.base import Store

    Output = Callable[[str, int, bytes], None]
    from backends.store.records import Record
else:
    Protocol = object  # typing would double the start


class Launcher(Protocol):
    """What runs attempts. The driver calls it from one thread only."""

    def start(self, step: str, memory: int | None) -> None:
        """Begin one attempt and return without waiting for it.

        Args:
            step: the step's name.
            memory: the memory limit of this attempt in bytes, or None for no limit.

        Raises:
            ZenRunnerError: the attempt could not begin; it counts as one that ended in the error's class.
        """

    def wait(self, timeout: float | None) -> list[Record]:
        """Return the result records of attempts that ended since the last call, each once, in order of their end.

        Blocks until there is one, until something asks the run to stop, or until the timeout; then the list is
        empty. It blocks for the timeout even where no attempt is running.

        Args:
            timeout: in seconds; None for no limit.

        Raises:
            ZenRunnerError: the attempts can't be observed any more.
        """

    def stop(self, step: str | None = None) -> None:
        """Ask one running attempt, or all, to end within the grace period; their records still come from ``wait``."""

    def close(self) -> None:
        """End whatever still runs, at once, and release everything; calling it again does nothing."""


class ProcessLauncher(Launcher, Protocol):
    """A launcher of processes of this machine; the entrypoint has one."""

    def wake(self) -> None:
        """Make a ``wait`` that blocks in another thread return soon."""


class Report(Protocol):
    """Who hears of a run's events.

    Events and their fields: ``run_started`` (run, steps: all names, resumed: names that have a good result already)
    · ``step_started`` (step, attempt) · ``step_retry`` (record of an attempt that failed, delay in seconds until
    the next) · ``step_finished`` (record of the last attempt) · ``step_skipped`` (step, because: a clause such as
    ``train failed``) · ``run_finished`` (summary).
    """

    def __call__(self, event: str, /, **fields: Any) -> None:
        """Take one event."""


class Execution:
    """One execution of a pipeline, as whoever asked for it wants it.

    Attributes:
        config: the resolved config.
        run_id: the run's id; one that exists resumes that run.
        store: the opened artifact store.
        report: called with each event.
        output: gets (step, stream, bytes) of everything that steps print, from several threads; None where nobody listens.
        stop_requested: called often; True asks the run to stop.
        launcher: starts attempts as processes of this machine; None where the caller has none.
    """

    __slots__ = ("config", "launcher", "output", "report", "run_id", "stop_requested", "store")

    def __init__(
        self,
        config: Mapping[str, Any],
        run_id: str,
        store: Store,
        *,
        report: Report | None = None,
        output: Output | None = None,
        stop_requested: Callable[[], bool] | None = None,
        launcher: ProcessLauncher | None = None,
    ) -> None:
        self.config = config
        self.run_id = run_id
        self.store = store
        self.report: Report = report if report is not None else silent
        self.output = output
        self.stop_requested = stop_requested if stop_requested is not None else never
        self.launcher = launcher


def silent(event: str, /, **fields: Any) -> None:
    """Take one event and tell nobody."""


def never() -> bool:
    """Return that nobody asks for a stop."""
    return False
