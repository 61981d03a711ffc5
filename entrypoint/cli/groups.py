"""Large foreach steps in tables: their many members become one row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from backends import outcome
from entrypoint.cli.terminal import RETRY, RUNNING, SKIPPED, WAITING

MEMBERS = 20  # of a foreach step that are shown one by one; those of a larger one are counted


def large_groups(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the foreach steps that have too many members to show each, and these members."""
    groups: dict[str, list[str]] = {}
    for name in names:
        if "." in name:  # no other step's name has one
            groups.setdefault(name.rpartition(".")[0], []).append(name)
    return {group: members for group, members in groups.items() if len(members) > MEMBERS}


def summary_of_states(states: Sequence[str]) -> tuple[str, str]:
    """Return one state for many steps, and how many are in which, such as ``98 success, 2 running``."""
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    order = (RETRY, RUNNING, "unknown", WAITING, SKIPPED, outcome.SUCCESS)
    failed = [state for state in counts if state not in order]
    first = next(iter([*failed, *(state for state in order if state in counts)]))
    return first, ", ".join(f"{count} {state}" for state, count in counts.items())


def fold_members(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the rows of a table of steps with one row per large foreach step, and one for each member of it that failed.

    Args:
        rows: pairs of a step and its record, which has at least its class.
    """
    groups = large_groups(name for name, _ in rows)
    records = dict(rows)
    folded: dict[str, Mapping[str, Any]] = {}
    for name, record in rows:
        group = name.rpartition(".")[0]
        if group not in groups:
            folded[name] = record
            continue
        title = f"{group} ({len(groups[group])})"
        if title not in folded:
            state, counts = summary_of_states([records[member]["class"] for member in groups[group]])
            folded[title] = {"class": state, "counts": counts}
        if record["class"] not in (outcome.SUCCESS, SKIPPED, RUNNING, WAITING, RETRY):
            folded[name] = record
    return list(folded.items())
