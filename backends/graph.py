"""The order of a pipeline's steps, as they end one by one: pure, incremental, linear in steps and edges."""

from __future__ import annotations

from backends.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any


class Graph:
    """Which steps are ready, given which have ended.

    Steps become ready in the order in which their last parent ended, and siblings in the order of ``parents``: the same
    calls always give the same order.

    Args:
        parents: the steps that each step waits for; every name in it must be a key as well.

    Raises:
        ConfigError: a parent is not a step.
    """

    __slots__ = ("_children", "_next", "_ready", "_skipped", "_waiting")

    def __init__(self, parents: Mapping[str, Sequence[str]]) -> None:
        self._children: dict[str, list[str]] = {step: [] for step in parents}
        self._waiting: dict[str, int] = {}
        self._ready: list[str] = []
        self._next = 0
        self._skipped: set[str] = set()
        for step, names in parents.items():
            for parent in names:
                if parent not in self._children:
                    raise ConfigError(f"step {step!r} waits for {parent!r}, which is not a step")
                self._children[parent].append(step)
            self._waiting[step] = len(names)
            if not names:
                self._ready.append(step)

    def take(self) -> str | None:
        """Return the next step that is ready, each once, or None if there is none for now."""
        if self._next == len(self._ready):
            return None
        self._next += 1
        return self._ready[self._next - 1]

    def held(self) -> bool:
        """Return whether a step is kept back until somebody else's word; never, unless a subclass knows of somebody."""
        return False

    def done(self, step: str) -> None:
        """Note that a taken step has succeeded; its children may become ready."""
        for child in self._children[step]:
            self._waiting[child] -= 1
            if not self._waiting[child]:  # never so for a skipped one: the parent that failed is not done
                self._ready.append(child)

    def fail(self, step: str) -> list[str]:
        """Note that a taken step has failed for good; return its descendants, skipped by this and nearest first."""
        reached = [step]
        for name in reached:
            for child in self._children[name]:
                if child not in self._skipped:
                    self._skipped.add(child)
                    reached.append(child)
        return reached[1:]


def order(parents: Mapping[str, Sequence[str]]) -> list[str]:
    """Return all steps with each after its parents.

    Args:
        parents: the steps that each step waits for.

    Raises:
        ConfigError: a parent is not a step, or steps wait for each other in a cycle; the message shows it.
    """
    graph = Graph(parents)
    steps: list[str] = []
    while (step := graph.take()) is not None:
        steps.append(step)
        graph.done(step)
    if len(steps) < len(parents):
        cycle = cycles(parents, 1)[0]
        raise ConfigError("steps wait for each other in a cycle: " + " → ".join((*cycle, cycle[0])))
    return steps


def cycles(parents: Mapping[str, Sequence[str]], most: int) -> list[list[str]]:
    """Return cycles, each from the step that comes first in it, along what each step waits for.

    Args:
        parents: the steps that each step waits for; those that are no key of it are left out.
        most: how many are enough.
    """
    positions = {name: index for index, name in enumerate(parents)}
    state: dict[str, int] = {}  # 1: on the way, 2: done
    result: list[list[str]] = []
    for root in parents:
        if root in state:
            continue
        way, below = [root], [iter(parents[root])]
        state[root] = 1
        while way:
            for parent in below[-1]:
                if state.get(parent) == 1 and len(result) < most:
                    cycle = way[way.index(parent) :]
                    first = min(range(len(cycle)), key=lambda index: positions[cycle[index]])
                    result.append(cycle[first:] + cycle[:first])
                elif parent not in state and parent in parents:
                    state[parent] = 1
                    way.append(parent)
                    below.append(iter(parents[parent]))
                    break
            else:
                state[way.pop()] = 2
                below.pop()
    return result


def members(steps: Mapping[str, Any], name: str) -> list[str]:
    """Return what a name stands for among resolved steps: a step, the members of a ``foreach`` step by index, or nothing.

    Args:
        steps: the resolved config's ``steps``.
        name: a step's name.
    """
    if name in steps:
        return [name]
    first = steps.get(f"{name}.0")
    return [f"{name}.{index}" for index in range(first["foreach"]["size"])] if first is not None else []


def named(steps: Mapping[str, Any]) -> list[str]:
    """Return the names of resolved steps as people wrote them: the members of a ``foreach`` step go by its own.

    Args:
        steps: the resolved config's ``steps``.
    """
    # Configs of runs of an earlier version don't have the key.
    return list(dict.fromkeys(spec["foreach"]["of"] if spec.get("foreach") else name for name, spec in steps.items()))


def in_order(steps: Mapping[str, Any]) -> list[str]:
    """Return all resolved steps in their order, but the members of a ``foreach`` step together and by index.

    Args:
        steps: the resolved config's ``steps``; canonical JSON has them by the alphabet, where ``s.10`` comes before ``s.2``.
    """
    return [member for name in named(steps) for member in members(steps, name)]


def groups(steps: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the members of every ``foreach`` step by index, in the order of the steps.

    Args:
        steps: the resolved config's ``steps``.
    """
    return {name: members(steps, name) for name in named(steps) if name not in steps}
