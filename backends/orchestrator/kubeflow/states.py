"""What Kubeflow says of a task, in the project's own words."""

from __future__ import annotations

from backends.states import CANCELLED, FAILED, PENDING, RUNNING, SKIPPED, SUCCEEDED

OVER = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
STATES = {
    "PENDING": PENDING,
    "RUNNING": RUNNING,
    "PAUSED": RUNNING,
    "CANCELING": RUNNING,
    "SUCCEEDED": SUCCEEDED,
    "SKIPPED": SKIPPED,
    "FAILED": FAILED,
    "CANCELED": CANCELLED,
}
