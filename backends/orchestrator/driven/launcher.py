"""What runs attempts for a driver, and who hears of a run's events."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from backends.store.records import Record
else:
    Protocol = object


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


class Report(Protocol):
    """Who hears of a run's events.

    Events and their fields: ``run_started`` (run, steps: all names, resumed: names that have a good result already)
    · ``step_started`` (step, attempt) · ``step_retry`` (record of an attempt that failed, delay in seconds until
    the next) · ``step_finished`` (record of the last attempt) · ``step_skipped`` (step, because: a clause such as
    ``train failed``) · ``run_finished`` (summary).
    """

    def __call__(self, event: str, /, **fields: Any) -> None:
        """Take one event."""
