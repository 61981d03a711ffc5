"""How a run does, at one moment."""

from __future__ import annotations

from backends import outcome
from backends.base import CANCELLED, FAILED, PENDING, RUNNING, SKIPPED, SUCCEEDED, UNKNOWN
from backends.platform import WHOLE_RUN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from backends.platform import JobStatus
    from backends.store.records import Record


ENDED = frozenset((SUCCEEDED, FAILED, CANCELLED, SKIPPED))
_SHOWN = 3  # of the platform's reasons in a message


class Picture:
    """How a run does at one moment.

    Attributes:
        states: each step's state.
        records: what each step left; made up where the platform alone knows how it ended.
        seen: what the platform said; None if it could not be asked.
    """

    def __init__(self, run: str, cancelled: bool) -> None:
        self.run = run
        self.cancelled = cancelled
        self.states: dict[str, str] = {}
        self.records: dict[str, Record] = {}
        self.seen: Mapping[str, JobStatus] | None = None
        self.problem = ""

    def state(self) -> str:
        """Return the run's state."""
        found = set(self.states.values())
        if found <= ENDED:
            if found <= {SUCCEEDED}:
                return SUCCEEDED
            return CANCELLED if self._verdict()[0] == outcome.TERMINATED else FAILED
        if RUNNING in found and self.seen is not None:
            return RUNNING
        if UNKNOWN in found or self.seen is None:
            return UNKNOWN
        return RUNNING if found & {SUCCEEDED, FAILED} else PENDING

    def verdict(self) -> tuple[str, int, str]:
        """Return the class, the exit status and the message of a run that has ended."""
        if set(self.states.values()) <= {SUCCEEDED}:
            return outcome.SUCCESS, 0, ""
        return self._verdict()

    def _verdict(self) -> tuple[str, int, str]:
        bad = [record for step, record in self.records.items() if self.states[step] in (FAILED, CANCELLED)]
        first = min(bad, key=lambda record: str(record["ended"]), default=None)
        if first is None or (self.cancelled and first["class"] == outcome.TERMINATED):
            return outcome.TERMINATED, outcome.code_of(outcome.TERMINATED), "the run was cancelled"
        detail = f": {first['message']}" if first.get("message") else ""
        message = f"step {first['step']!r} failed ({first['class']}, exit status {first['exit_code']}){detail}"
        return first["class"], first["exit_code"], message

    def because(self, step: str, parents: Mapping[str, list[str]]) -> str:
        """Return why a step was skipped."""
        while True:
            bad = [parent for parent in parents[step] if self.states[parent] in (FAILED, CANCELLED, SKIPPED)]
            if not bad:
                return "the run was cancelled"
            step = bad[0]
            if self.states[step] != SKIPPED:
                return f"{step} failed"

    def reasons(self) -> str:
        """Return what the platform has to say about what does not go on."""
        found = [self.problem] if self.problem else []
        seen = self.seen or {}
        if WHOLE_RUN in seen and seen[WHOLE_RUN].message:
            found.append(seen[WHOLE_RUN].message)
        waits = [
            (step, seen[step].message)
            for step, state in self.states.items()
            if state in (PENDING, UNKNOWN) and step in seen and seen[step].message
        ]
        found += [f"step {step!r} is {self.states[step]}: {why}" for step, why in waits[:_SHOWN]]
        if len(waits) > _SHOWN:
            found.append(f"and {len(waits) - _SHOWN} more")
        lost = [step for step, state in self.states.items() if state == UNKNOWN and step not in seen]
        if lost and not found:
            found.append(f"the platform knows nothing of step {lost[0]!r}, and how it ended is not in the store")
        return "; ".join(found)

    def answer(self) -> dict[str, Any]:
        """Return it as ``OrchestratorBaseBackend.status`` does."""
        state = self.state()
        name, code, message = self.verdict() if state in ENDED else (None, None, self.reasons())
        return {
            "run": self.run,
            "state": state,
            "class": name,
            "exit_code": code,
            "message": message,
            "steps": dict(self.states),
        }
