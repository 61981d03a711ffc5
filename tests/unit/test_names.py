"""Names are what the platform takes, the same each time, and no two are one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import names
from backends.orchestrator.batch.limits import NAME as BATCH

RULES = {
    names.DNS_LABEL: re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?"),
    names.LABEL_VALUE: re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"),
    BATCH: re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}"),
}
rules = st.sampled_from(list(RULES))
parts = st.lists(st.text() | st.text("abAB019-_.", max_size=200), min_size=1, max_size=3)


@given(rules, parts)
def test_a_name_is_valid_and_the_same_each_time(rule: names.Rule, given_parts: list[str]) -> None:
    name = names.fit(rule, *given_parts)
    assert RULES[rule].fullmatch(name)
    assert name == names.fit(rule, *given_parts)


@given(rules, st.lists(parts, min_size=2, max_size=20, unique_by=tuple))
@pytest.mark.large
def test_no_two_are_one(rule: names.Rule, many: list[list[str]]) -> None:
    assert len({names.fit(rule, *some) for some in many}) == len(many)


@given(rules, parts)
def test_a_name_that_was_made_is_not_that_of_something_else(rule: names.Rule, given_parts: list[str]) -> None:
    made = names.fit(rule, *given_parts)
    if given_parts != [made]:
        assert names.fit(rule, made) != made


@pytest.mark.parametrize("name", ["penguins", "a", "penguins-20261123-214158-ab12cd"])
def test_what_fits_stays(name: str) -> None:
    assert names.fit(names.DNS_LABEL, name) == name


def test_what_can_be_kept_is_kept() -> None:
    assert names.fit(names.DNS_LABEL, "My Pipeline").startswith("my-pipeline-")
    assert names.fit(BATCH, "Run.1", "s.0").startswith("Run-1-s-0-")
    assert len(names.fit(names.DNS_LABEL, "x" * 300)) == 63
    assert names.fit(names.DNS_LABEL, "0").startswith("x-")
    assert names.fit(BATCH, "a-b", "c") != names.fit(BATCH, "a", "b-c")
