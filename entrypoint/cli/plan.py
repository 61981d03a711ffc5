"""What `run --dry-run` prints: the steps in their order, and what each would do."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from backends import graph
from entrypoint.cli.groups import large_groups
from entrypoint.cli.terminal import columns
from entrypoint.runtime.run import runs_elsewhere

if TYPE_CHECKING:
    from entrypoint.cli.config import Config

_MEANING = {"skip": "skip (has a good result)", "cache": "run (unless in the cache)", "run": "run"}


class PlannedStep(TypedDict):
    """What one step would do, as it is printed in JSON.

    Args:
        step: its name.
        action: ``run``, ``skip`` (it has a good result), or ``cache`` (it runs unless the cache has its result).
        after: the steps that it waits for.
        what: what it runs, in words.
    """

    step: str
    action: str
    after: list[str]
    what: str


def make_plan(config: Config, names: Sequence[str], good: Collection[str]) -> list[PlannedStep]:
    """Return what steps would do.

    Args:
        config: the resolved config.
        names: the steps, in the order in which they would run.
        good: the steps that have a good result already.
    """
    plan: list[PlannedStep] = []
    for name in names:
        step = config["steps"][name]
        action = "skip" if name in good else "cache" if step["cache"] else "run"
        plan.append({"step": name, "action": action, "after": step["parents"], "what": _target(step)})
    return plan


def plan_table(config: Config, plan: Sequence[PlannedStep]) -> list[str]:
    """Return the plan as a table, with one row for all members of a large foreach step that are treated alike."""
    groups = large_groups(row["step"] for row in plan)
    alike: dict[tuple[str, str], int] = {}
    for row in plan:
        key = row["step"].rpartition(".")[0], row["action"]
        alike[key] = alike.get(key, 0) + 1
    cells = [("", "STEP", "DOES", "AFTER", "WHAT")]
    for number, row in enumerate(plan, 1):
        name, key = row["step"], (row["step"].rpartition(".")[0], row["action"])
        if key[0] in groups:
            if not (count := alike.pop(key, 0)):
                continue
            name = f"{key[0]} ({count})"
        after = graph.named({parent: config["steps"][parent] for parent in row["after"]})
        cells.append((str(number), name, _MEANING[row["action"]], ", ".join(after) or "-", row["what"]))
    return columns(cells)


def _target(step: Mapping[str, Any]) -> str:
    where = f", as a job on {step['backend']['source']}" if runs_elsewhere(step) else ""
    for kind in ("call", "beam", "spark"):
        if kind in step:
            return f"{kind} {step[kind]}{where}"
    return f"run {shlex.join(step['run'])}{where}"
