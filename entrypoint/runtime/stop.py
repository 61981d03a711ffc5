"""When an attempt must not go on: somebody asked it to stop, or what it does outlasts the step's timeout."""

from __future__ import annotations

from time import monotonic, sleep

from backends.errors import Terminated, TimedOut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from entrypoint.runtime.supervise import Supervisor

SLACK = 0.4  # seconds in which whoever is asked has to answer; then it is left to itself
RECORD = 0.8  # seconds past the grace period in which the record has to be stored


class Stop:
    """Says when an attempt must not go on.

    What comes before the step's process ends at once; what comes after it has the grace period, as the process has, so that
    outputs that were written are published. Each may take as long as the step's ``timeout``.

    Args:
        supervisor: hears the signals.
        step: whose ``timeout`` and ``grace_period`` count.
    """

    def __init__(self, supervisor: Supervisor, step: Mapping[str, Any]) -> None:
        self._supervisor = supervisor
        self._timeout: float | None = step["timeout"]
        self._grace: float = step["grace_period"]
        self._asked: float | None = None
        self._phase = "to claim the step"
        self._patience = 0.0
        self._until: float | None = None

    def ask(self) -> None:
        """Ask the attempt to stop."""
        if self._asked is None:
            self._asked = monotonic()

    def enter(self, phase: str, *, has_grace: bool = False, has_timeout: bool = True) -> None:
        """Begin a phase.

        Args:
            phase: what is done in it, as an infinitive for the message.
            has_grace: it may go on for the grace period.
            has_timeout: the step's timeout counts for it.
        """
        self._phase = phase
        self._patience = self._grace if has_grace else 0.0
        self._until = monotonic() + self._timeout if has_timeout and self._timeout is not None else None

    def check(self) -> None:
        """Raise if the phase must not go on; cheap, and called from any thread for each file and each block.

        Raises:
            Terminated: somebody asked for it.
            TimedOut: the phase outlasts the step's timeout.
        """
        asked = self._when_asked()
        if asked is not None and monotonic() >= self._bear(asked):
            number = self._supervisor.stopped_by
            raise Terminated("stopped" + (" by a signal" if number is not None else "") + self._where())
        if self._until is not None and monotonic() >= self._until:
            raise TimedOut(f"took longer {self._phase} than its timeout of {self._timeout:g} s")

    def wait(self, seconds: float) -> None:
        """Wait, but no longer than until `check` raises."""
        until = monotonic() + seconds
        while (now := monotonic()) < until and not self.is_due():
            sleep(min(0.1, until - now))

    def is_due(self) -> bool:
        """Return whether `check` would raise."""
        due = self.due()
        return due is not None and monotonic() >= due

    def due(self) -> float | None:
        """Return the time of the monotonic clock from which `check` raises, as far as that is known."""
        asked = self._when_asked()
        times = [time for time in (None if asked is None else self._bear(asked), self._until) if time is not None]
        return min(times) if times else None

    def end(self) -> float | None:
        """Return the time of the monotonic clock by which nothing of the attempt may go on; None if nobody asked it to stop."""
        asked = self._when_asked()
        if asked is None:
            return None
        return asked + RECORD + (0.0 if self._supervisor.is_impatient else self._grace)

    def _when_asked(self) -> float | None:
        return self._asked if self._asked is not None else self._supervisor.stopped_at

    def _bear(self, asked: float) -> float:
        return asked + (0.0 if self._supervisor.is_impatient else self._patience)

    def _where(self) -> str:
        return " before the step began" if self._patience == 0.0 else f" while it was about {self._phase}"
