"""How a submitted run does: what the store knows, what its platform says, and waiting for its end."""

from __future__ import annotations

import time

from backends import graph, outcome
from backends.base import CANCELLED, FAILED, PENDING, RUNNING, SKIPPED, SUCCEEDED, UNKNOWN
from backends.errors import InfraError, ZenRunnerError
from backends.orchestrator.remote.picture import ENDED, Picture
from backends.orchestrator.remote.submission import SUBMITTED, SUBMITTING, holder_of, is_at_work
from backends.platform import WHOLE_RUN, JobStatus
from backends.store import keys, open_store, records
from backends.store.base import each
from backends.store.logs import log_chunks
from backends.store.records import make_record, read_handle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from backends.orchestrator.remote.backend import OrchestratorRemoteBackend
    from backends.store.records import Record


sleep = time.sleep


class Watch:
    """Looks at a run again and again, and reads no record twice that can't change.

    Args:
        backend: the backend.
        handle: the run's handle; a newer one in the store counts instead.

    Raises:
        InfraError: the store could not be read, or does not have the run's config.
    """

    def __init__(self, backend: OrchestratorRemoteBackend, handle: Mapping[str, Any]) -> None:
        self.store = open_store(handle["store"])
        self.run: str = handle["run"]
        self.handle = dict(handle)
        config = records.get_config(self.store, self.handle["config"])
        if config is None:
            key = keys.config(self.handle["config"])
            raise InfraError(f"{self.store.url} has lost {key}, the config of run {self.run!r}; submit it under a new run id")
        self.config = config
        self.parents: dict[str, list[str]] = {step: spec["parents"] for step, spec in config["steps"].items()}
        self._backend = backend
        self._good: dict[str, Record] = {}
        self._order: list[str] = []

    def look(self) -> Picture:
        """Ask the platform, then the store, and return how the run does."""
        store, run = self.store, self.run
        self.handle = read_handle(store, run) or self.handle
        picture = Picture(run, store.exists(keys.cancel(run)))
        steps = self.config["steps"]
        try:
            # All that the platform says has ended has its record in the store by then.
            submitted = len(self._good) < len(steps) and not frozenset(self.handle["resumed"]).issuperset(steps)
            picture.seen = self._backend._status(dict(self.handle["state"])) if submitted else {}
        except ZenRunnerError as error:
            picture.problem = str(error)
        seen = picture.seen or {}
        alive = (PENDING, RUNNING)
        wanted = [step for step in steps if step not in self._good and (step not in seen or seen[step].state not in alive)]
        found = self._read(wanted)
        for step, (record, _) in found.items():
            if record is not None and record["class"] == outcome.SUCCESS:
                self._good[step] = record
        if self.handle["phase"] != SUBMITTED and not picture.problem:
            picture.problem = self._submission()
        for step in self._ordered():
            self._judge(picture, step, found.get(step, (None, False)))
        return picture

    def log(self, step: str, follow: bool) -> Iterator[bytes]:
        """Yield a step's log; when following, to the end of its last attempt."""
        store, run = self.store, self.run
        ended = _Slowly(lambda: self.look().states[step] in ENDED, max(self._backend.poll_first, 0.2))
        number = 0
        while True:
            over = not follow or ended()
            known = [attempt for attempt in records.attempts(store, run, step) if attempt > number]
            for latest in known if number else known[-1:]:
                number = latest
                yield from log_chunks(store, run, step, number, follow=follow, stop=ended)
            if over:
                if not number:
                    yield from self._backend._logs(dict(self.handle["state"]), step)
                return
            sleep(0.2)

    def _read(self, steps: list[str]) -> dict[str, tuple[Record | None, bool]]:
        """Return each step's last record, and whether there is a later attempt that has none."""
        before = self.handle["before"]

        def read(step: str) -> tuple[Record | None, bool]:
            is_open = False
            for number in reversed(records.attempts(self.store, self.run, step)):
                record = records.result(self.store, self.run, step, number)
                if record is not None:
                    stale = number <= before.get(step, 0) and record["class"] != outcome.SUCCESS
                    return (None if stale else record), is_open
                is_open = number > before.get(step, 0)
            return None, is_open

        return dict(zip(steps, each(self.store, read, steps), strict=True))

    def _ordered(self) -> list[str]:
        if not self._order:
            self._order = graph.order(self.parents)
        return self._order

    def _submission(self) -> str:
        """Return why the run is not with the platform yet."""
        number, holder = holder_of(self.store, self.handle)
        if self.handle["phase"] == SUBMITTING and is_at_work(self.store, self.run, number, holder):
            return ""
        return f"its submission was cut short; submit it again with --run-id {self.run} to complete it, or cancel it"

    def _judge(self, picture: Picture, step: str, found: tuple[Record | None, bool]) -> None:
        """Settle one step's state, when those of its parents are settled."""
        if step in self._good:
            picture.states[step], picture.records[step] = SUCCEEDED, self._good[step]
            return
        record, is_open = found
        seen = (picture.seen or {}).get(step)
        whole = (picture.seen or {}).get(WHOLE_RUN)
        if whole is not None and whole.state in (FAILED, CANCELLED) and (seen is None or seen.state == PENDING):
            seen = whole
        if seen is None and self.handle["phase"] == SUBMITTING and not picture.problem:
            seen = JobStatus(PENDING)
        if seen is not None and seen.state in (PENDING, RUNNING):
            picture.states[step] = seen.state
            return
        by_record = record is not None and not is_open
        bad_parent = any(picture.states[parent] in (FAILED, CANCELLED, SKIPPED) for parent in self.parents[step])
        began = record is not None or is_open
        if seen is None or seen.state == UNKNOWN:
            if record is not None and by_record and (picture.cancelled or self._is_final(step, record)):
                picture.states[step], picture.records[step] = _state(record), record
            else:
                picture.states[step] = SKIPPED if not began and (bad_parent or picture.cancelled) else UNKNOWN
            return
        if record is not None and by_record:
            picture.states[step], picture.records[step] = _state(record), record
        elif not began and (seen.state in (SKIPPED, CANCELLED) or (bad_parent and seen.exit_code is None)):
            picture.states[step] = SKIPPED
        else:
            made = self._make_record(step, seen)
            picture.states[step], picture.records[step] = _state(made), made

    def _is_final(self, step: str, record: Record) -> bool:
        """Tell whether no attempt comes after this one, as far as the config tells."""
        policy = self.config["steps"][step]["retry"]
        tried = record["attempt"] - self.handle["before"].get(step, 0)
        return tried > policy["limit"] or not outcome.is_retried(record["class"], record["exit_code"], policy["on"])

    def _make_record(self, step: str, seen: JobStatus) -> Record:
        kind, code = seen.verdict()
        message = seen.message or "the container ended without a record"
        if seen.exit_code == 0 and seen.kind is None:
            message = (
                f"the container ended with 0 without a record: {self.config['steps'][step]['image']} does not run zen-runner; "
                "build it from a zen-runner image and keep its ENTRYPOINT"
            )
        sha, number = self.handle["config"], seen.attempt or 0
        return make_record(self.run, step, number, kind, message, code=code, status=seen.exit_code, config=sha, host="")


class _Slowly:
    """Asks a question, but not more often than allowed; once the answer was yes it stays so.

    Args:
        question: what is asked.
        pause: seconds between two times.
    """

    def __init__(self, question: Callable[[], bool], pause: float) -> None:
        self._question = question
        self._pause = pause
        self._next = 0.0
        self._answer = False

    def __call__(self) -> bool:
        if not self._answer and time.monotonic() >= self._next:
            self._answer = self._question()
            self._next = time.monotonic() + self._pause
        return self._answer


def _state(record: Mapping[str, Any]) -> str:
    return CANCELLED if record["class"] == outcome.TERMINATED else FAILED
