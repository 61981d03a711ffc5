"""How a submitted run does: what the store knows, what its platform says, and waiting for its end."""

from __future__ import annotations

import time

from backends import graph, outcome, records
from backends.base import CANCELLED, FAILED, PENDING, RUNNING, SKIPPED, SUCCEEDED, UNKNOWN
from backends.errors import InfraError, ZenRunnerError
from backends.orchestrator.client import read_handle
from backends.orchestrator.driver import backoff
from backends.orchestrator.submission import SUBMITTED, SUBMITTING, cancel_key, holder_of, is_at_work
from backends.store import open_store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from backends.orchestrator.driver import Report
    from backends.orchestrator.remote import OrchestratorRemoteBackend

    Record = dict[str, Any]

WHOLE = ""
"""The key in ``_status``'s answer for what the platform says of the run as such."""
ENDED = frozenset((SUCCEEDED, FAILED, CANCELLED, SKIPPED))
_SHOWN = 3  # of the platform's reasons in a message

sleep = time.sleep


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
        self.seen: Mapping[str, Seen] | None = None
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
        if WHOLE in seen and seen[WHOLE].message:
            found.append(seen[WHOLE].message)
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
            key = f"configs/{self.handle['config']}.json"
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
        picture = Picture(run, store.exists(cancel_key(run)))
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
                yield from records.log_chunks(store, run, step, number, follow=follow, stop=ended)
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

        if self.store.root is not None or len(steps) < 2:
            return {step: read(step) for step in steps}
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(16) as pool:
            return dict(zip(steps, pool.map(read, steps), strict=True))

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
        whole = (picture.seen or {}).get(WHOLE)
        if whole is not None and whole.state in (FAILED, CANCELLED) and (seen is None or seen.state == PENDING):
            seen = whole
        if seen is None and self.handle["phase"] == SUBMITTING and not picture.problem:
            seen = Seen(PENDING)
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

    def _make_record(self, step: str, seen: Seen) -> Record:
        kind, code = seen.verdict()
        message = seen.message or "the container ended without a record"
        if seen.exit_code == 0 and seen.kind is None:
            message = (
                f"the container ended with 0 without a record: {self.config['steps'][step]['image']} does not run zen-runner; "
                "build it from a zen-runner image and keep its ENTRYPOINT"
            )
        now = records.utc()
        return {
            "version": 1,
            "run": self.run,
            "step": step,
            "attempt": seen.attempt or 0,
            "class": kind,
            "exit_code": code,
            "message": message,
            "started": now,
            "ended": now,
            "seconds": 0.0,
            "status": seen.exit_code,
            "signal": None,
            "inputs": {},
            "outputs": {},
            "values": {},
            "config": self.handle["config"],
            "usage": {},
            "host": "",
            "cached_from": None,
        }


class Wait:
    """Follows a run to its end, and ends it where it gets nowhere."""

    def __init__(
        self,
        backend: OrchestratorRemoteBackend,
        handle: Mapping[str, Any],
        resumed: list[str],
        report: Report | None,
        stop_requested: Callable[[], bool] | None,
    ) -> None:
        self._backend = backend
        self._watch = Watch(backend, handle)
        self._resumed = resumed
        self._report: Report = report if report is not None else lambda event, /, **fields: None
        self._stop_requested = stop_requested or (lambda: False)
        self._told: dict[str, str] = dict.fromkeys(resumed, SUCCEEDED)
        self._verdict: tuple[str, int, str] | None = None
        self._give_up = 0.0  # when a cancelled run counts as ended, whatever the platform says

    def perform(self) -> dict[str, Any]:
        """Return the run's summary, when it has ended."""
        watch, backend = self._watch, self._backend
        began = time.monotonic()
        self._report("run_started", run=watch.run, steps=list(watch.config["steps"]), resumed=self._resumed)
        moved = sighted = began
        pause = backend.poll_first
        while True:
            picture = watch.look()
            now = time.monotonic()
            if self._tell(picture):
                moved, pause = now, backend.poll_first
            state = picture.state()
            if state in ENDED or (self._give_up and now > self._give_up):
                return self._finish(picture, began)
            if state != UNKNOWN:
                sighted = now
            elif now - sighted > backend.blind_timeout:
                raise InfraError(f"run {watch.run!r} can't be followed any more: {picture.reasons()}")
            if not self._give_up:
                self._judge(picture, now - moved)
            self._sleep(pause)
            pause = min(backend.poll_most, pause * 1.5)

    def _judge(self, picture: Picture, idle: float) -> None:
        """Cancel the run if it was asked to stop, is past its deadline, or can't start."""
        backend = self._backend
        if self._stop_requested():
            self._cancel()
        elif backend.deadline is not None and time.time() - self._watch.handle["began"] > backend.deadline:
            why = f"the run had not ended {backend.deadline:g} s after its submission, which is its deadline"
            self._cancel((outcome.TIMEOUT, outcome.code_of(outcome.TIMEOUT), why))
        elif (
            backend.startup_timeout is not None
            and idle > backend.startup_timeout
            and picture.seen is not None
            and RUNNING not in picture.states.values()
            and (ready := self._ready(picture))
        ):
            because = picture.reasons() or "the platform gives no reason"
            why = f"step {ready!r} did not start within {backend.startup_timeout:g} s: {because}"
            self._cancel((outcome.INFRA, outcome.code_of(outcome.INFRA), why))

    def _ready(self, picture: Picture) -> str | None:
        """Return a step that waits for nothing but the platform."""
        parents, states = self._watch.parents, picture.states
        return next(
            (
                step
                for step, state in states.items()
                if state == PENDING and all(states[parent] == SUCCEEDED for parent in parents[step])
            ),
            None,
        )

    def _cancel(self, verdict: tuple[str, int, str] | None = None) -> None:
        grace = max(float(spec["grace_period"] or 0) for spec in self._watch.config["steps"].values())
        self._verdict = verdict
        self._give_up = time.monotonic() + grace + self._backend.cancel_timeout
        self._backend.cancel(self._watch.handle)

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + backoff(seconds, 0)
        while (left := until - time.monotonic()) > 0:
            sleep(min(left, 0.5))
            if self._stop_requested() and not self._give_up:
                return

    def _tell(self, picture: Picture) -> bool:
        """Report what is new, and return whether anything is."""
        news = False
        for step, state in picture.states.items():
            if self._told.get(step, PENDING) == state or state == UNKNOWN:
                continue
            news = True
            if self._told.get(step) != RUNNING and (state == RUNNING or step in picture.records):
                seen = (picture.seen or {}).get(step)
                attempt = (picture.records.get(step) or {}).get("attempt") or (seen and seen.attempt) or 1
                self._report("step_started", step=step, attempt=attempt)
            self._told[step] = state
            if state == SKIPPED:
                self._report("step_skipped", step=step, because=picture.because(step, self._watch.parents))
            elif state in ENDED:
                self._report("step_finished", record=picture.records[step])
        return news

    def _finish(self, picture: Picture, began: float) -> dict[str, Any]:
        watch = self._watch
        ended = picture.state() in ENDED
        name, code, message = self._verdict or picture.verdict()
        if not ended:
            message += "; it was cancelled, and the platform did not say in time that it ended"
        run = records.read_run(watch.store, watch.run) or {}
        head = {
            "version": 1,
            "run": watch.run,
            "name": watch.config["name"],
            "config": watch.handle["config"],
            "started": run.get("started") or watch.handle["submitted"],
            "state": name,
            "class": name,
            "exit_code": code,
            "message": message,
            "ended": records.utc(),
            "seconds": round(time.monotonic() - began, 3),
        }
        if ended:
            records.write_run(watch.store, watch.run, head)
        skipped = {step: picture.because(step, watch.parents) for step, state in picture.states.items() if state == SKIPPED}
        order = list(watch.config["steps"])
        steps = {step: picture.records[step] for step in order if step in picture.records}
        summary = {**head, "resumed": list(self._resumed), "steps": steps, "skipped": skipped}
        self._report("run_finished", summary=summary)
        return summary


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
