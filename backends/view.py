"""How does a run do? One answer for every backend and for the command line.

Records come first: what a step did is told by its record in the store. What has none is asked for, once for all steps: of the
platform that keeps the order of the steps, or of the driver that does.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

from backends import graph, outcome
from backends.errors import InfraError, ZenRunnerError
from backends.platform import WHOLE_RUN, JobStatus
from backends.states import CANCELLED, ENDED, FAILED, PENDING, RUNNING, SKIPPED, SUCCEEDED, UNKNOWN
from backends.store import keys, records
from backends.store.base import each
from backends.store.logs import follow_step
from backends.store.records import DEAD_AFTER, make_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from typing import Any

    from backends.store.base import Store
    from backends.store.records import Record


_GONE_WRONG = (FAILED, CANCELLED, SKIPPED)
_SHOWN = 3  # of the platform's reasons in a message


class Life(ABC):
    """Who is asked what no record tells.

    Attributes:
        is_driver: it is a driver of ours, which writes ``run.json`` and starts the steps; else a platform that orders them.
        holds_steps: the steps run inside of it, so that none outlives it.
        problem: after a look, why the run gets nowhere although all answered.
    """

    is_driver: bool
    holds_steps: bool = False
    problem: str = ""

    @property
    @abstractmethod
    def config(self) -> str:
        """The sha256 of the run's config."""

    @property
    def before(self) -> Mapping[str, int]:
        """The last attempt of each step that ended before this round of the run began: its failure is not this round's."""
        return {}

    def read_ending(self) -> Mapping[str, Any] | None:
        """Return the run's own record, if a driver has written how the run ended; None where no driver writes one."""
        return None

    @abstractmethod
    def look(self, steps: Collection[str]) -> Mapping[str, JobStatus]:
        """Return what is said of steps by name, and of the run under ``WHOLE_RUN``; a driver always says the latter.

        Args:
            steps: those that have no good record yet.

        Raises:
            ZenRunnerError: nothing could be learned.
        """

    def log(self, step: str) -> Iterator[bytes]:
        """Yield what is kept of a step's output elsewhere than in the store, or under ``WHOLE_RUN`` of the driver's."""
        return iter(())

    @property
    def pace(self) -> float:
        """Seconds between two looks."""
        return 0.2


class RunStatus:
    """How a run does at one moment.

    Attributes:
        run: the run's id.
        cancelled: somebody asked it to stop.
        states: each step's state.
        records: what each step left; made up where the platform alone knows how it ended.
        attempts: the number of the attempt that is at work, by step.
        said: what the platform or the driver said; None if nothing could be learned.
        problem: why nothing could be learned, or why it gets nowhere.
        ended: the run's own record, once its driver has written how it ended.
    """

    def __init__(self, run: str, parents: Mapping[str, list[str]], cancelled: bool) -> None:
        self.run = run
        self.parents = parents
        self.cancelled = cancelled
        self.states: dict[str, str] = {}
        self.records: dict[str, Record] = {}
        self.attempts: dict[str, int] = {}
        self.said: Mapping[str, JobStatus] | None = None
        self.problem = ""
        self.ended: Mapping[str, Any] | None = None
        self.is_driven = False

    def state(self) -> str:
        """Return the run's state."""
        if self.ended is not None:
            return state_of_class(self.ended["class"])
        if self.is_driven:
            return UNKNOWN if self.said is None else self.said[WHOLE_RUN].state
        states = set(self.states.values())
        if states <= ENDED:
            if states <= {SUCCEEDED}:
                return SUCCEEDED
            return CANCELLED if self._first_failure()[0] == outcome.TERMINATED else FAILED
        if RUNNING in states and self.said is not None:
            return RUNNING
        if UNKNOWN in states or self.said is None:
            return UNKNOWN
        return RUNNING if states & {SUCCEEDED, FAILED} else PENDING

    def verdict(self) -> tuple[str, int | None, str]:
        """Return the class, the exit status and the message of a run that has ended."""
        if self.ended is not None:
            return self.ended["class"], self.ended.get("exit_code"), self.ended.get("message", "")
        if self.is_driven and self.said is not None:
            whole = self.said[WHOLE_RUN]
            return (*whole.verdict(), whole.message)
        if set(self.states.values()) <= {SUCCEEDED}:
            return outcome.SUCCESS, 0, ""
        return self._first_failure()

    def _first_failure(self) -> tuple[str, int, str]:
        bad = [record for step, record in self.records.items() if self.states[step] in (FAILED, CANCELLED)]
        first = min(bad, key=lambda record: str(record["ended"]), default=None)
        if first is None or (self.cancelled and first["class"] == outcome.TERMINATED):
            return outcome.TERMINATED, outcome.code_of(outcome.TERMINATED), "the run was cancelled"
        detail = f": {first['message']}" if first.get("message") else ""
        message = f"step {first['step']!r} failed ({first['class']}, exit status {first['exit_code']}){detail}"
        return first["class"], first["exit_code"], message

    def because(self, step: str) -> str:
        """Return why a step was skipped."""
        while True:
            bad = [parent for parent in self.parents[step] if self.states[parent] in _GONE_WRONG]
            if not bad:
                return "the run was cancelled"
            step = bad[0]
            if self.states[step] != SKIPPED:
                return f"{step} failed"

    def reasons(self) -> str:
        """Return what the platform has to say about what does not go on."""
        reasons = [self.problem] if self.problem else []
        said = self.said or {}
        if WHOLE_RUN in said and said[WHOLE_RUN].message:
            reasons.append(said[WHOLE_RUN].message)
        waits = [
            (step, said[step].message)
            for step, state in self.states.items()
            if state in (PENDING, UNKNOWN) and step in said and said[step].message
        ]
        reasons += [f"step {step!r} is {self.states[step]}: {why}" for step, why in waits[:_SHOWN]]
        if len(waits) > _SHOWN:
            reasons.append(f"and {len(waits) - _SHOWN} more")
        lost = [step for step, state in self.states.items() if state == UNKNOWN and step not in said]
        if lost and not reasons and not self.is_driven:
            reasons.append(f"the platform knows nothing of step {lost[0]!r}, and how it ended is not in the store")
        return "; ".join(reasons)

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


class RunView:
    """Looks at a run again and again, and reads no record twice that can't change.

    Args:
        store: where the run lives.
        run: the run's id.
        config: the run's config, resolved.
        life: who is asked what no record tells.
    """

    def __init__(self, store: Store, run: str, config: Mapping[str, Any], life: Life) -> None:
        self.store = store
        self.run = run
        self.config = config
        self.parents: dict[str, list[str]] = {step: spec["parents"] for step, spec in config["steps"].items()}
        self._life = life
        self._good: dict[str, Record] = {}
        self._order = graph.order(self.parents)

    def look(self) -> RunStatus:
        """Ask, then read the store, and return how the run does."""
        steps = self.config["steps"]
        status = RunStatus(self.run, self.parents, self.store.exists(keys.cancel(self.run)))
        status.is_driven = self._life.is_driver
        status.ended = self._life.read_ending()
        try:
            # All that is said to have ended has its record in the store by then.
            if status.ended is None:
                status.said = self._life.look([step for step in steps if step not in self._good])
                if WHOLE_RUN in status.said and status.said[WHOLE_RUN].state in ENDED:
                    status.ended = self._life.read_ending()  # its driver may have written it between the two looks
        except ZenRunnerError as error:
            status.problem = str(error)
        status.problem = status.problem or self._life.problem
        open_states = (PENDING, RUNNING)
        said = status.said or {}
        unread = [step for step in steps if step not in self._good and (step not in said or said[step].state not in open_states)]
        read = dict(zip(unread, each(self.store, self._read, unread), strict=True))
        for step, (record, _) in read.items():
            if record is not None and record["class"] == outcome.SUCCESS:
                self._good[step] = record
        for step in self._order:
            self._settle(status, step, *read.get(step, (None, 0)))
        return status

    def log(self, step: str, follow: bool) -> Iterator[bytes]:
        """Yield a step's log; when following, to the end of its last attempt."""
        ended = self._slowly(lambda status: ENDED.intersection((status.states[step], status.state())))
        logged = False
        for chunk in follow_step(self.store, self.run, step, follow, ended):
            logged = True
            yield chunk
        if not logged and not records.attempts(self.store, self.run, step):
            yield from self._life.log(step)

    def driver_log(self, follow: bool) -> Iterator[bytes]:
        """Yield what is kept of the driver's output; when following, to the end of the run."""
        ended = self._slowly(lambda status: status.state() in ENDED)
        passed = 0
        while True:
            is_over = not follow or ended()  # asked first: whatever is printed by then is read below
            at = 0
            for chunk in self._life.log(WHOLE_RUN):
                if at + len(chunk) > passed:
                    yield chunk[max(0, passed - at) :]
                at += len(chunk)
            passed = max(passed, at)
            if is_over:
                return
            time.sleep(max(self._life.pace, 0.2))

    def _slowly(self, question: Callable[[RunStatus], object]) -> Slowly:
        return Slowly(lambda: bool(question(self.look())), max(self._life.pace, 0.2))

    def _read(self, step: str) -> tuple[Record | None, int]:
        """Return a step's last record, and the number of a later attempt that has none; 0 without one."""
        before = self._life.before.get(step, 0)
        open_attempt = 0
        for number in reversed(records.attempts(self.store, self.run, step)):
            record = records.result(self.store, self.run, step, number)
            if record is not None:
                stale = number <= before and record["class"] != outcome.SUCCESS
                return (None if stale else record), open_attempt
            open_attempt = number if number > before else 0
        return None, open_attempt

    def _settle(self, status: RunStatus, step: str, record: Record | None, open_attempt: int) -> None:
        """Settle one step's state, when those of its parents are settled."""
        if step in self._good:
            status.states[step], status.records[step] = SUCCEEDED, self._good[step]
            return
        if open_attempt:
            status.attempts[step] = open_attempt
        said = self._said(status, step)
        if status.is_driven:
            state = settle_driven(
                status.state(),
                has_record=record is not None,
                is_final=record is not None and self._is_final(step, record),
                is_open=open_attempt > 0,
                is_gone=self._life.holds_steps and said is not None,
            )
            if state == UNKNOWN and status.state() == UNKNOWN and self._was_heard(step, open_attempt):
                state = RUNNING
        else:
            state = settle_ordered(
                said,
                is_over=record is not None and not open_attempt,
                is_final=record is not None and (status.cancelled or self._is_final(step, record)),
                began=record is not None or open_attempt > 0,
                bad_parent=any(status.states[parent] in _GONE_WRONG for parent in self.parents[step]),
                cancelled=status.cancelled,
            )
        if state == BY_PLATFORM and said is not None:
            record, state = self._make_record(step, said, open_attempt), BY_RECORD
        if state == BY_RECORD and record is not None:
            status.states[step], status.records[step] = state_of_class(record["class"]), record
        else:
            status.states[step] = state

    def _said(self, status: RunStatus, step: str) -> JobStatus | None:
        said = (status.said or {}).get(step)
        whole = (status.said or {}).get(WHOLE_RUN)
        if whole is not None and whole.state in (FAILED, CANCELLED) and (said is None or said.state == PENDING):
            return whole
        return said

    def _was_heard(self, step: str, attempt: int) -> bool:
        """Return whether an attempt's owner gave a sign of life lately."""
        places = (keys.heartbeat(self.run, step, attempt), keys.claim(self.run, step, attempt))
        ages = [age for age in map(self.store.age, places) if age is not None]
        return bool(ages) and min(ages) <= DEAD_AFTER

    def _is_final(self, step: str, record: Record) -> bool:
        """Return whether no attempt comes after this one, as far as the config tells."""
        policy = self.config["steps"][step]["retry"]
        tried = record["attempt"] - self._life.before.get(step, 0)
        return tried > policy["limit"] or not outcome.is_retried(record["class"], record["exit_code"], policy["on"])

    def _make_record(self, step: str, said: JobStatus, open_attempt: int) -> Record:
        kind, code = said.verdict()
        message = said.message or "the container ended without a record"
        if said.exit_code == 0 and said.kind is None:
            message = (
                f"the container ended with 0 without a record: {self.config['steps'][step]['image']} does not run zen-runner; "
                "build it from a zen-runner image and keep its ENTRYPOINT"
            )
        return make_record(
            self.run,
            step,
            said.attempt or open_attempt,
            kind,
            message,
            code=code,
            status=said.exit_code,
            config=self._life.config,
            host="",
        )


BY_RECORD, BY_PLATFORM = "by record", "by platform"
"""Instead of a state: it is the record's, or that of a record made of what the platform says."""


def settle_ordered(
    said: JobStatus | None, *, is_over: bool, is_final: bool, began: bool, bad_parent: bool, cancelled: bool
) -> str:
    """Return the state of a step whose platform orders the steps, or where it is to be read.

    Args:
        said: what the platform says of it; None if nothing.
        is_over: its last attempt has a record.
        is_final: no attempt comes after that record.
        began: it has had an attempt in this round.
        bad_parent: a step that it waits for has not succeeded.
        cancelled: the run was asked to stop.
    """
    if said is not None and said.state in (PENDING, RUNNING):
        return said.state
    if said is None or said.state == UNKNOWN:
        if is_over and is_final:
            return BY_RECORD
        return SKIPPED if not began and (bad_parent or cancelled) else UNKNOWN
    if is_over:
        return BY_RECORD
    if not began and (said.state in (SKIPPED, CANCELLED) or (bad_parent and said.exit_code is None)):
        return SKIPPED
    return BY_PLATFORM


def settle_driven(run: str, *, has_record: bool, is_final: bool, is_open: bool, is_gone: bool) -> str:
    """Return the state of a step that a driver of ours starts, or where it is to be read.

    Args:
        run: the run's state.
        has_record: an attempt of it has ended.
        is_final: no attempt comes after that one.
        is_open: an attempt of it has begun and has no record.
        is_gone: where its attempts run is no more.
    """
    ended = run in ENDED
    if not (has_record or is_open):
        return SKIPPED if ended else PENDING
    if is_open:
        if is_gone:
            return BY_PLATFORM
        if ended and has_record:
            return BY_RECORD
        return UNKNOWN if ended or run == UNKNOWN else RUNNING  # what is unknown may be known by its heartbeat
    return RUNNING if run == RUNNING and not is_final else BY_RECORD  # the driver will try it again


def state_of_class(kind: str) -> str:
    """Return the state that a class of the exit table means."""
    return {outcome.SUCCESS: SUCCEEDED, outcome.TERMINATED: CANCELLED}.get(kind, FAILED)


def config_of(store: Store, handle: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a submitted run.

    Raises:
        InfraError: it is not in the store, or not what was submitted.
    """
    config = records.get_config(store, handle["config"])
    if config is None:
        key = keys.config(handle["config"])
        raise InfraError(f"{store.url} has lost {key}, the config of run {handle['run']!r}; submit it under a new run id")
    return config


def unknown(handle: Mapping[str, Any], message: str) -> dict[str, Any]:
    """Return the answer of ``OrchestratorBaseBackend.status`` where nothing could be learned."""
    return {"run": handle["run"], "state": UNKNOWN, "class": None, "exit_code": None, "message": message, "steps": {}}


class Slowly:
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
