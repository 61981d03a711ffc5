"""The order of steps: complete, deterministic, linear, and safe from deep pipelines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import ConfigError
from backends.graph import Graph, order

Parents = dict[str, list[str]]


@st.composite
def pipelines(draw: st.DrawFn) -> Parents:
    """Any acyclic pipeline, its steps listed in any order."""
    names = [f"s{index}" for index in range(draw(st.integers(0, 12)))]
    edges = {name: draw(st.lists(st.sampled_from(names[:at]), unique=True)) if at else [] for at, name in enumerate(names)}
    return {name: edges[name] for name in draw(st.permutations(names))}


def ancestors(parents: Parents, step: str) -> set[str]:
    found: set[str] = set()
    todo = list(parents[step])
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += parents[name]
    return found


@given(pipelines())
def test_every_step_comes_once_and_after_its_parents(parents: Parents) -> None:
    steps = order(parents)
    assert sorted(steps) == sorted(parents)
    place = {step: index for index, step in enumerate(steps)}
    assert all(place[parent] < place[step] for step in parents for parent in parents[step])
    assert order(parents) == steps


@given(pipelines(), st.data())
def test_a_failure_skips_the_descendants_and_nothing_else(parents: Parents, data: st.DataObject) -> None:
    failing = data.draw(st.sets(st.sampled_from(sorted(parents)))) if parents else set()
    graph = Graph(parents)
    done, failed, skipped = set(), set(), []
    while (step := graph.take()) is not None:
        if step in failing:
            failed.add(step)
            skipped += graph.fail(step)
        else:
            done.add(step)
            graph.done(step)
    assert len(skipped) == len(set(skipped))
    assert done | failed | set(skipped) == set(parents)
    assert set(skipped) == {step for step in parents if ancestors(parents, step) & failing}
    assert not (done | failed) & set(skipped)


def test_siblings_come_in_the_order_of_the_config() -> None:
    graph = Graph({"c": [], "a": [], "b": [], "y": ["c"], "x": ["c"]})
    assert [graph.take() for _ in range(4)] == ["c", "a", "b", None]
    graph.done("c")
    assert [graph.take() for _ in range(3)] == ["y", "x", None]


def test_a_parent_named_twice_counts_once() -> None:
    assert order({"a": [], "b": ["a", "a"]}) == ["a", "b"]


def test_a_skipped_step_never_becomes_ready() -> None:
    graph = Graph({"a": [], "b": [], "c": ["a", "b"]})
    assert [graph.take(), graph.take()] == ["a", "b"]
    assert graph.fail("a") == ["c"]
    graph.done("b")
    assert graph.take() is None


def test_a_chain_of_10000_steps_needs_no_recursion() -> None:
    parents: Parents = {f"s{n}": [f"s{n - 1}"] if n else [] for n in range(10_000)}
    assert order(parents) == list(parents)
    graph = Graph(parents)
    graph.take()
    assert graph.fail("s0") == list(parents)[1:]


class CountingList(list[str]):
    """A list that counts how often it is gone through."""

    looks = 0

    def __iter__(self):  # type: ignore[no-untyped-def]
        CountingList.looks += 1
        return super().__iter__()


def test_each_edge_is_looked_at_a_fixed_number_of_times() -> None:
    CountingList.looks = 0
    parents: Parents = {f"s{n}": CountingList([f"s{n - 1}"] if n else []) for n in range(1000)}
    order(parents)
    assert CountingList.looks == 1000


def test_a_cycle_is_shown() -> None:
    with pytest.raises(ConfigError, match="b → c → b"):
        order({"a": [], "b": ["a", "c"], "c": ["b"], "d": ["c"]})
    with pytest.raises(ConfigError, match="a → a"):
        order({"a": ["a"]})


def test_an_unknown_parent_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'b' waits for 'x', which is not a step"):
        order({"b": ["x"]})
