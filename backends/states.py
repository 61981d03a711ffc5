"""The states of steps, jobs and runs."""

from __future__ import annotations

PENDING = "pending"
RUNNING = "running"
SUCCEEDED = "succeeded"
FAILED = "failed"
CANCELLED = "cancelled"
SKIPPED = "skipped"
UNKNOWN = "unknown"
"""It could not be read; never to be taken for still running."""
STATES = (PENDING, RUNNING, SUCCEEDED, FAILED, CANCELLED, SKIPPED, UNKNOWN)
ENDED = frozenset((SUCCEEDED, FAILED, CANCELLED, SKIPPED))
