"""What Batch says of a job, in the project's own words."""

from __future__ import annotations

from backends import outcome
from backends.base import CANCELLED, FAILED, PENDING, RUNNING, SUCCEEDED
from backends.orchestrator.batch.api import REASON
from backends.platform import JobStatus

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


class Mixed(JobStatus):
    """What Batch says of an array job whose members differ: what holds for those that it doesn't know, or not yet."""


def seen_of(detail: Document) -> JobStatus:
    """Return what Batch says of one job."""
    state = STATES.get(detail["status"], PENDING)
    container = detail.get("container") or {}
    attempts = [attempt.get("container") or {} for attempt in detail.get("attempts") or []]
    attempt = len(attempts) or None
    last = attempts[-1] if attempts else {}
    reasons = (detail.get("statusReason"), container.get("reason") or last.get("reason"))
    message = ": ".join(dict.fromkeys(filter(None, reasons)))
    array = detail.get("arrayProperties") or {}
    if array.get("size"):
        members = {STATES.get(name, PENDING) for name, count in (array.get("statusSummary") or {}).items() if count}
        alike = members <= {PENDING} if state == PENDING else members <= {SUCCEEDED}
        return JobStatus(state, message) if alike and state != RUNNING else Mixed(state, message)
    if state != FAILED:
        return JobStatus(state, message, attempt=attempt, exit_code=0 if state == SUCCEEDED else None)
    code = container.get("exitCode", last.get("exitCode"))
    if detail.get("isCancelled") or detail.get("isTerminated") or REASON in message:
        return JobStatus(CANCELLED, message, exit_code=code, attempt=attempt)
    kind = None
    if "OutOfMemory" in message:
        kind = outcome.OOM
    elif "attempt duration exceeded" in message:
        kind = outcome.TIMEOUT
    elif "Host EC2" in message:
        kind = outcome.INFRA
    elif "CannotPull" in message:
        kind = outcome.CONFIG if any(word in message.lower() for word in _NO_SUCH_IMAGE) else outcome.INFRA
    return JobStatus(FAILED, message, exit_code=code, kind=kind, attempt=attempt)
