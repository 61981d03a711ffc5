"""What a run's state is made of: every rule for a step, and what follows for the run."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from backends.errors import InfraError
from backends.platform import WHOLE_RUN, JobStatus
from backends.states import CANCELLED, ENDED, FAILED, PENDING, RUNNING, SKIPPED, STATES, SUCCEEDED, UNKNOWN
from backends.store import open_store
from backends.store.records import make_record
from backends.view import BY_PLATFORM, BY_RECORD, Life, RunStatus, RunView, settle_driven, settle_ordered
from tests.support.claiming import claim
from tests.support.configs import resolved

if TYPE_CHECKING:
    from backends.store.base import Store

PARENTS: dict[str, list[str]] = {"a": [], "b": ["a"], "c": ["b"]}
ENDS = (SUCCEEDED, FAILED)
STOPS = (CANCELLED, SKIPPED)

# What the platform says ("" for nothing), whether the last attempt is over and its record final, whether it began, whether a
# parent went wrong and whether the run was cancelled; None for any.
ORDERED = [
    *(((state, None, None, None, None, None), state) for state in (PENDING, RUNNING)),
    *(((state, True, True, None, None, None), BY_RECORD) for state in ("", UNKNOWN)),
    *(((state, True, False, True, None, None), UNKNOWN) for state in ("", UNKNOWN)),
    *(((state, False, None, True, None, None), UNKNOWN) for state in ("", UNKNOWN)),
    *(((state, False, None, False, True, None), SKIPPED) for state in ("", UNKNOWN)),
    *(((state, False, None, False, False, True), SKIPPED) for state in ("", UNKNOWN)),
    *(((state, False, None, False, False, False), UNKNOWN) for state in ("", UNKNOWN)),
    *(((state, True, None, None, None, None), BY_RECORD) for state in (*ENDS, *STOPS)),
    *(((state, False, None, True, None, None), BY_PLATFORM) for state in (*ENDS, *STOPS)),
    *(((state, False, None, False, None, None), SKIPPED) for state in STOPS),
    *(((state, False, None, False, True, None), SKIPPED) for state in ENDS),
    *(((state, False, None, False, False, None), BY_PLATFORM) for state in ENDS),
]


@pytest.mark.parametrize(("facts", "state"), ORDERED)
def test_a_step_whose_platform_orders_the_steps(facts: tuple[Any, ...], state: str) -> None:
    said, *flags = facts
    names = ("is_over", "is_final", "began", "bad_parent", "cancelled")
    for values in itertools.product(*([flag] if flag is not None else [True, False] for flag in flags)):
        given = dict(zip(names, values, strict=True))
        assert settle_ordered(JobStatus(said) if said else None, **given) == state, given


def test_every_case_of_such_a_step_is_a_row() -> None:
    for said, flags in itertools.product(("", *STATES), itertools.product((True, False), repeat=5)):
        if flags[0] and not flags[2]:
            continue  # what is over has begun
        rows = [state for facts, state in ORDERED if all(f in (None, v) for f, v in zip(facts, (said, *flags), strict=True))]
        assert len(rows) == 1, (said, flags, rows)


def test_a_container_that_ended_by_itself_ran_although_a_parent_went_wrong() -> None:
    said = JobStatus(FAILED, exit_code=1)
    assert settle_ordered(said, is_over=False, is_final=False, began=False, bad_parent=True, cancelled=False) == BY_PLATFORM


# The run's states, whether an attempt has a record and that is final, whether one is open, whether its place is gone.
DRIVEN = [
    ((ENDED, False, None, False, None), SKIPPED),
    ((set(STATES) - ENDED, False, None, False, None), PENDING),
    ((STATES, None, None, True, True), BY_PLATFORM),
    ((ENDED, True, None, True, False), BY_RECORD),
    ((ENDED, False, None, True, False), UNKNOWN),
    (({UNKNOWN}, None, None, True, False), UNKNOWN),
    (({PENDING, RUNNING}, None, None, True, False), RUNNING),
    (({RUNNING}, True, False, False, None), RUNNING),
    (({RUNNING}, True, True, False, None), BY_RECORD),
    ((set(STATES) - {RUNNING}, True, None, False, None), BY_RECORD),
]


def test_a_step_that_a_driver_starts() -> None:
    names = ("has_record", "is_final", "is_open", "is_gone")
    for run, flags in itertools.product(STATES, itertools.product((True, False), repeat=4)):
        rows = [
            state
            for (runs, *facts), state in DRIVEN
            if run in runs and all(fact in (None, flag) for fact, flag in zip(facts, flags, strict=True))
        ]
        given: dict[str, bool] = dict(zip(names, flags, strict=True))
        assert rows == [settle_driven(run, **given)], (run, given)


def status_of(states: Mapping[str, str], said: Mapping[str, JobStatus] | None = None, cancelled: bool = False) -> RunStatus:
    status = RunStatus("r", PARENTS, cancelled)
    status.states = dict(states)
    status.said = {} if said is None else said
    return status


@pytest.mark.parametrize(
    ("states", "is_heard", "state"),
    [
        ([SUCCEEDED, SUCCEEDED, SUCCEEDED], False, SUCCEEDED),
        ([SUCCEEDED, FAILED, SKIPPED], False, FAILED),
        ([SUCCEEDED, CANCELLED, SKIPPED], False, CANCELLED),
        ([SKIPPED, SKIPPED, SKIPPED], False, CANCELLED),
        ([SUCCEEDED, RUNNING, PENDING], True, RUNNING),
        ([RUNNING, UNKNOWN, PENDING], True, RUNNING),
        ([RUNNING, PENDING, PENDING], False, UNKNOWN),
        ([SUCCEEDED, UNKNOWN, PENDING], True, UNKNOWN),
        ([PENDING, PENDING, PENDING], False, UNKNOWN),
        ([PENDING, PENDING, PENDING], True, PENDING),
        ([SUCCEEDED, PENDING, PENDING], True, RUNNING),
        ([FAILED, PENDING, PENDING], True, RUNNING),
    ],
)
def test_the_state_of_a_run_whose_platform_orders_the_steps(states: list[str], is_heard: bool, state: str) -> None:
    status = status_of(dict(zip(PARENTS, states, strict=True)))
    status.said = {} if is_heard else None
    for step, kind in (("a", "user"), ("b", "terminated")):
        status.records[step] = make_record("r", step, 1, "user" if status.states[step] == FAILED else kind, "m")
    assert status.state() == state


@pytest.mark.parametrize(
    ("ended", "whole", "state", "verdict"),
    [
        ("success", None, SUCCEEDED, ("success", 0, "m")),
        ("terminated", RUNNING, CANCELLED, ("terminated", 143, "m")),
        ("user", FAILED, FAILED, ("user", 1, "m")),
        (None, None, UNKNOWN, None),
        (None, RUNNING, RUNNING, None),
        (None, PENDING, PENDING, None),
        (None, FAILED, FAILED, ("infra", 69, "gone")),
        (None, CANCELLED, CANCELLED, ("terminated", 143, "gone")),
    ],
)
def test_a_driver_tells_how_the_run_does(
    ended: str | None, whole: str | None, state: str, verdict: tuple[Any, ...] | None
) -> None:
    status = status_of(dict.fromkeys(PARENTS, PENDING), {} if whole is None else {WHOLE_RUN: JobStatus(whole, "gone")})
    status.is_driven = True
    if whole is None:
        status.said = None
    if ended is not None:
        record = make_record("r", "", 1, ended, "m")
        status.ended = {name: record[name] for name in ("class", "exit_code", "message")}
    assert status.state() == state
    if verdict is not None:
        assert status.verdict() == verdict


def test_the_verdict_is_that_of_the_step_that_failed_first() -> None:
    status = status_of({"a": FAILED, "b": FAILED, "c": SKIPPED})
    status.records["a"] = make_record("r", "a", 1, "user", "", code=3, ended="2026-01-01T00:00:02Z")
    status.records["b"] = make_record("r", "b", 1, "oom", "too much", ended="2026-01-01T00:00:01Z")
    assert status.verdict() == ("oom", 137, "step 'b' failed (oom, exit status 137): too much")
    del status.records["b"]
    assert status.verdict() == ("user", 3, "step 'a' failed (user, exit status 3)")


@pytest.mark.parametrize(
    ("cancelled", "message"), [(True, "the run was cancelled"), (False, "step 'a' failed (terminated, exit ")]
)
def test_a_step_that_was_ended_is_no_failure_if_the_run_was_cancelled(cancelled: bool, message: str) -> None:
    status = status_of({"a": CANCELLED, "b": SKIPPED, "c": SKIPPED}, cancelled=cancelled)
    status.records["a"] = make_record("r", "a", 1, "terminated", "")
    name, code, said = status.verdict()
    assert (name, code) == ("terminated", 143) and said.startswith(message)


def test_why_a_step_was_skipped() -> None:
    status = status_of({"a": FAILED, "b": SKIPPED, "c": SKIPPED})
    assert [status.because(step) for step in ("b", "c")] == ["a failed", "a failed"]
    assert status_of(dict.fromkeys(PARENTS, SKIPPED)).because("c") == "the run was cancelled"


def test_the_reasons_are_those_of_what_waits() -> None:
    steps = [f"s{n}" for n in range(5)]
    said = {step: JobStatus(PENDING, f"no room for {step}") for step in steps}
    status = RunStatus("r", {step: [] for step in steps}, False)
    status.states, status.said, status.problem = dict.fromkeys(steps, PENDING), said, "cut short"
    told = [f"step '{step}' is pending: no room for {step}" for step in steps[:3]]
    assert status.reasons() == "; ".join(["cut short", *told, "and 2 more"])
    status.states["s0"] = RUNNING  # what runs waits for nothing
    status.said = {**said, WHOLE_RUN: JobStatus(RUNNING, "a node is drained")}
    assert status.reasons().startswith("cut short; a node is drained; step 's1' is pending")


def test_what_is_lost_is_said_where_nothing_else_is() -> None:
    status = status_of({"a": SUCCEEDED, "b": UNKNOWN, "c": PENDING})
    assert "knows nothing of step 'b'" in status.reasons()
    status.is_driven = True
    assert status.reasons() == ""


class Scripted(Life):
    """Says what it is told to say.

    Args:
        said: what it says; an error is raised.
        endings: the run's own record, from look to look.
    """

    is_driver = True
    config = "0" * 64

    def __init__(self, said: Mapping[str, JobStatus] | Exception, *endings: Mapping[str, Any] | None) -> None:
        self.said = said
        self.endings = list(endings)

    def read_ending(self) -> Mapping[str, Any] | None:
        return self.endings.pop(0) if self.endings else None

    def look(self, steps: Collection[str]) -> Mapping[str, JobStatus]:
        if isinstance(self.said, Exception):
            raise self.said
        return self.said


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def view(store: Store, life: Life) -> RunView:
    return RunView(store, "r", resolved({"a": {}, "b": {"after": ["a"]}}, store=store.url), life)


def test_a_driver_that_ends_between_two_looks_has_written_how(store: Store) -> None:
    ending = {"class": "success", "exit_code": 0, "message": ""}
    life = Scripted({WHOLE_RUN: JobStatus(FAILED, "it died", kind="infra")}, None, ending)
    assert view(store, life).look().state() == SUCCEEDED


def test_a_life_that_can_not_be_asked_is_unknown_and_says_why(store: Store) -> None:
    answer = view(store, Scripted(InfraError("no answer"))).look().answer()
    assert (answer["state"], answer["message"], answer["class"]) == (UNKNOWN, "no answer", None)


def test_an_open_attempt_has_failed_with_what_it_ran_on(store: Store) -> None:
    claim(store, "r", "a", {})
    life = Scripted({WHOLE_RUN: JobStatus(FAILED, "the power went", kind="infra")})
    assert view(store, life).look().states == {"a": UNKNOWN, "b": SKIPPED}
    life.holds_steps = True
    status = view(store, life).look()
    assert status.states == {"a": FAILED, "b": SKIPPED}
    assert [status.records["a"][name] for name in ("class", "attempt", "message")] == ["infra", 1, "the power went"]
