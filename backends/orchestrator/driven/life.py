"""Ask whether a run's driver lives, as far as that can be seen from this machine."""

from __future__ import annotations

from backends import outcome
from backends.platform import WHOLE_RUN, JobStatus
from backends.process import is_alive
from backends.states import CANCELLED, FAILED, PENDING, RUNNING, UNKNOWN
from backends.store import keys, records
from backends.view import Life

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any

    from backends.store.base import Store
    from backends.store.records import Handle, RunRecord

WHO = ("host", "boot", "pid_ns", "pid", "pid_start")
"""What tells one process from all others, in a handle, ``run.json`` and ``cancel.json``."""


class DriverLife(Life):
    """Whether the process that drives a run lives: the one that was submitted, or one that resumed the run since.

    Args:
        store: where the run lives.
        run: the run's id.
        handle: what ``submit`` left; None for a run that was started by hand.
    """

    is_driver = True

    def __init__(self, store: Store, run: str, handle: Handle | None) -> None:
        self._store = store
        self._run = run
        self._handle = handle

    @property
    def config(self) -> str:
        record = self._handle or records.read_run(self._store, self._run)
        return "" if record is None else record["config"]

    def read_ending(self) -> RunRecord | None:
        run = self._own_record()
        return run if run is not None and "class" in run else None

    def _own_record(self) -> RunRecord | None:
        """Return ``run.json``, unless a driver that was submitted later has not written its own yet."""
        run = records.read_run(self._store, self._run)
        if self._handle is not None and (run is None or run.get("pid") != self._handle["pid"]) and is_alive(self._handle):
            return None
        return run

    def look(self, steps: Collection[str]) -> dict[str, JobStatus]:
        run = self._own_record()
        is_resumed = run is not None and run["state"] == RUNNING
        driver: Mapping[str, Any] = (run if is_resumed else self._handle) or run or {}
        lives = is_alive(driver)
        if lives:
            return {WHOLE_RUN: JobStatus(RUNNING if run else PENDING)}
        if lives is None:
            where = f"the driver is on {driver['host']}, where alone can be seen whether it lives" if "host" in driver else ""
            return {WHOLE_RUN: JobStatus(UNKNOWN, where)}
        asked = records.read_json(self._store, keys.cancel(self._run)) or {}
        if all(asked.get(name) == driver[name] for name in WHO):
            return {WHOLE_RUN: JobStatus(CANCELLED, "the run was cancelled", kind=outcome.TERMINATED)}
        if self._handle is None:
            why = "nothing is heard of what drives this run; `run --run-id` with this id resumes it"
            return {WHOLE_RUN: JobStatus(UNKNOWN, why)}
        why = f"the driver died; a run with the same run id resumes. Its log: {self._handle['log']}"
        return {WHOLE_RUN: JobStatus(FAILED, why, kind=outcome.INFRA)}
