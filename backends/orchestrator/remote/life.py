"""Ask a run's platform, and its submission, what no record tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from backends.orchestrator.remote.submission import SUBMITTED, SUBMITTING, holder_of, is_at_work
from backends.outcome import SUCCESS, TERMINATED
from backends.platform import WHOLE_RUN, JobStatus
from backends.states import CANCELLED, FAILED, PENDING, SUCCEEDED, UNKNOWN
from backends.store import keys, records
from backends.store.records import read_handle
from backends.view import Life

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from backends.platform import Platform
    from backends.store.base import Store


class Asked(Protocol):
    """What a backend answers for its platform."""

    runs_a_driver: bool

    def statuses(self, platform: Platform, state: Mapping[str, Any]) -> dict[str, JobStatus]: ...
    def platform_log(self, platform: Platform, state: Mapping[str, Any], step: str) -> Iterator[bytes]: ...


class PlatformLife(Life):
    """What a platform says of a run that was submitted to it.

    Args:
        backend: translates between the run and its jobs.
        platform: is asked; it lives as long as this, with what it remembers of jobs that have ended.
        store: where the run lives.
        handle: the run's; a newer one in the store counts instead.
    """

    def __init__(self, backend: Asked, platform: Platform, store: Store, handle: Mapping[str, Any]) -> None:
        self.is_driver = self.holds_steps = backend.runs_a_driver
        self.handle = dict(handle)
        self.platform = platform
        self._backend = backend
        self._store = store

    @property
    def before(self) -> Mapping[str, int]:
        before: Mapping[str, int] = self.handle["before"]
        return before

    @property
    def config(self) -> str:
        return str(self.handle["config"])

    @property
    def pace(self) -> float:
        return self.platform.pace

    def look(self, steps: Collection[str]) -> dict[str, JobStatus]:
        self.handle = read_handle(self._store, self.handle["run"]) or self.handle
        is_done = frozenset(self.handle["resumed"]).issuperset(steps)
        is_asked = self.is_driver or not is_done
        said = self._backend.statuses(self.platform, self.handle["state"]) if is_asked else {}
        self.problem = "" if self.handle["phase"] == SUBMITTED else self._why_not_submitted()
        if self.handle["phase"] == SUBMITTING and not self.problem:
            return {**dict.fromkeys((*steps, WHOLE_RUN), JobStatus(PENDING)), **said}
        return {WHOLE_RUN: self._whole(said.get(WHOLE_RUN), is_done)} if self.is_driver else said

    def _whole(self, whole: JobStatus | None, is_done: bool) -> JobStatus:
        """Return how a run does whose driver has not written how it ended, as far as its platform knows."""
        if whole is None and is_done:
            return JobStatus(SUCCEEDED, kind=SUCCESS)  # there was nothing left to start
        if whole is not None and whole.state not in (FAILED, UNKNOWN):
            return whole
        if self._store.exists(keys.cancel(self.handle["run"])):  # a driver that was ended at once could not write that
            return JobStatus(CANCELLED, "the run was cancelled", kind=TERMINATED)
        return whole or JobStatus(UNKNOWN)

    def read_ending(self) -> Mapping[str, Any] | None:
        run = records.read_run(self._store, self.handle["run"]) or {} if self.is_driver else {}
        return run if "class" in run else None

    def log(self, step: str) -> Iterator[bytes]:
        return self._backend.platform_log(self.platform, self.handle["state"], step)

    def _why_not_submitted(self) -> str:
        number, holder = holder_of(self._store, self.handle)
        run = self.handle["run"]
        if self.handle["phase"] == SUBMITTING and is_at_work(self._store, run, number, holder):
            return ""
        return f"its submission was cut short; submit it again with --run-id {run} to complete it, or cancel it"
