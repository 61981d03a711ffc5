"""What a platform says of a job."""

from __future__ import annotations

from backends import outcome
from backends.base import CANCELLED

TYPE_CHECKING = False


WHOLE = ""
"""The key in ``_status``'s answer for what the platform says of the run as such."""


class Seen:
    """What the platform says of one step.

    Args:
        state: one of ``backends.base.STATES``. A failed attempt that the platform tries again is pending or running.
        message: the platform's own reason, also for what is pending.
        exit_code: the container's exit status, if known.
        kind: the class in the exit table, where the platform knows better than the exit status does.
        attempt: the attempt's number, if known.
    """

    __slots__ = ("attempt", "exit_code", "kind", "message", "state")

    def __init__(
        self,
        state: str,
        message: str = "",
        *,
        exit_code: int | None = None,
        kind: str | None = None,
        attempt: int | None = None,
    ) -> None:
        self.state = state
        self.message = message
        self.exit_code = exit_code
        self.kind = kind
        self.attempt = attempt

    def verdict(self) -> tuple[str, int]:
        """Return class and exit status of a step that ended and left no record."""
        if self.kind is not None:
            return self.kind, outcome.code_of(self.kind)
        if self.state == CANCELLED:
            return outcome.TERMINATED, outcome.code_of(outcome.TERMINATED)
        if self.exit_code == 0:  # our supervisor never ends so without a record
            return outcome.CONFIG, outcome.code_of(outcome.CONFIG)
        if self.exit_code:
            return outcome.row_of(self.exit_code).name, self.exit_code
        return outcome.INFRA, outcome.code_of(outcome.INFRA)
