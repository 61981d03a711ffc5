"""Names are what the platform takes, the same each time, and no two are one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import names
from backends.names import Rule
from backends.orchestrator.batch.limits import NAME as BATCH
from backends.orchestrator.kubeflow.limits import TASK
from backends.orchestrator.remote.job import Names

# RFC 1035, section 2.3.1, and Kubernetes' "Labels and Selectors": the strictest rules there are.
DNS_LABEL = Rule(63, names.LOWER + names.DIGITS + "-", names.LOWER, names.LOWER + names.DIGITS)
WORD = names.LETTERS + names.DIGITS
LABEL_VALUE = Rule(63, WORD + "-_.", WORD, WORD)
RULES = (
    (DNS_LABEL, re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")),
    (LABEL_VALUE, re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")),
    (BATCH, re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")),
    (TASK, re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")),
)
rules = st.sampled_from(RULES)
parts = st.lists(st.text() | st.text("abAB019-_.", max_size=200), min_size=1, max_size=3)


@given(rules, parts)
def test_a_name_is_valid_and_the_same_each_time(rule: tuple[Rule, re.Pattern[str]], given_parts: list[str]) -> None:
    name = names.fit(rule[0], *given_parts)
    assert rule[1].fullmatch(name)
    assert name == names.fit(rule[0], *given_parts)


@given(rules, st.lists(parts, min_size=2, max_size=20, unique_by=tuple))
@pytest.mark.large
def test_no_two_are_one(rule: tuple[Rule, re.Pattern[str]], many: list[list[str]]) -> None:
    assert len({names.fit(rule[0], *some) for some in many}) == len(many)


@given(rules, parts)
def test_a_name_that_was_made_is_not_that_of_something_else(rule: tuple[Rule, re.Pattern[str]], given_parts: list[str]) -> None:
    made = names.fit(rule[0], *given_parts)
    if given_parts != [made]:
        assert names.fit(rule[0], made) != made


@pytest.mark.parametrize("name", ["penguins", "a", "penguins-20261123-214158-ab12cd"])
def test_what_fits_stays(name: str) -> None:
    assert names.fit(DNS_LABEL, name) == name


def test_what_can_be_kept_is_kept() -> None:
    assert names.fit(DNS_LABEL, "My Pipeline").startswith("my-pipeline-")
    assert names.fit(BATCH, "Run.1", "s.0").startswith("Run-1-s-0-")
    assert len(names.fit(DNS_LABEL, "x" * 300)) == 63
    assert names.fit(DNS_LABEL, "0").startswith("x-")
    assert names.fit(BATCH, "a-b", "c") != names.fit(BATCH, "a", "b-c")


@given(rules, st.text("abAB019-_.", min_size=1, max_size=63), st.integers(1, 30), st.text(min_size=1))
def test_the_names_of_a_runs_jobs_are_valid_and_no_other_rounds(
    rule: tuple[Rule, re.Pattern[str]], run: str, number: int, key: str
) -> None:
    jobs = Names(rule[0], "s3://bucket/prefix", run, number)
    assert rule[1].fullmatch(jobs.of(key)) and jobs.of(key).startswith(jobs.prefix)
    for other in (Names(rule[0], "s3://bucket/prefix", run, number + 1), Names(rule[0], "s3://bucket/other", run, number)):
        assert other.prefix != jobs.prefix
