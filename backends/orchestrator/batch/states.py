"""What Batch says of a job, in the project's own words."""

from __future__ import annotations

from backends import outcome
from backends.platform import JobStatus
from backends.states import CANCELLED, FAILED, PENDING, RUNNING, SUCCEEDED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Document = dict[str, Any]


OVER = ("SUCCEEDED", "FAILED")
STATES = {
    "SUBMITTED": PENDING,
    "PENDING": PENDING,
    "RUNNABLE": PENDING,
    "STARTING": PENDING,
    "RUNNING": RUNNING,
    "SUCCEEDED": SUCCEEDED,
    "FAILED": FAILED,
}
_NO_SUCH_IMAGE = ("manifest unknown", "not found", "does not exist", "denied", "unauthorized", "invalid reference")


REASON = "cancelled by zen-runner"
"""What a job is ended with, and known by afterwards."""
# What a failed job's reason says, and the class of the exit table that it means; the first that fits.
_KINDS = (
    ("OutOfMemory", outcome.OOM),
    ("attempt duration exceeded", outcome.TIMEOUT),
    ("Host EC2", outcome.INFRA),
)


def has_mixed_members(detail: Document) -> bool:
    """Return whether a job is an array whose members differ, so that each has to be asked for."""
    array = detail.get("arrayProperties") or {}
    if not array.get("size"):
        return False
    state = STATES.get(detail["status"], PENDING)
    states = {STATES.get(name, PENDING) for name, count in (array.get("statusSummary") or {}).items() if count}
    return state == RUNNING or not states <= ({PENDING} if state == PENDING else {SUCCEEDED})


def status_of(detail: Document) -> JobStatus:
    """Return what Batch says of one job; of an array what holds for the members that it does not know, or not yet."""
    state = STATES.get(detail["status"], PENDING)
    container = detail.get("container") or {}
    attempts = [attempt.get("container") or {} for attempt in detail.get("attempts") or []]
    attempt = len(attempts) or None
    last = attempts[-1] if attempts else {}
    reasons = (detail.get("statusReason"), container.get("reason") or last.get("reason"))
    message = ": ".join(dict.fromkeys(filter(None, reasons)))
    if (detail.get("arrayProperties") or {}).get("size"):
        return JobStatus(state, message)
    if state != FAILED:
        return JobStatus(state, message, attempt=attempt, exit_code=0 if state == SUCCEEDED else None)
    code = container.get("exitCode", last.get("exitCode"))
    if detail.get("isCancelled") or detail.get("isTerminated") or REASON in message:
        return JobStatus(CANCELLED, message, exit_code=code, attempt=attempt)
    kind = next((kind for sign, kind in _KINDS if sign in message), None)
    if kind is None and "CannotPull" in message:
        kind = outcome.CONFIG if any(word in message.lower() for word in _NO_SUCH_IMAGE) else outcome.INFRA
    return JobStatus(FAILED, message, exit_code=code, kind=kind, attempt=attempt)
