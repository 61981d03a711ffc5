"""Tell at the end how a run went."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from backends import errors, graph, outcome, wire
from backends.store import keys
from entrypoint.cli.text import RETRY, RUNNING, SKIPPED, WAITING, columns, duration, paint, size, visible

if TYPE_CHECKING:
    from backends.store.base import Store


TAIL_LINES = 12  # lines of a failed step's log that the report shows
TAIL_BYTES = 1 << 16
ROWS = 100  # steps that the final table shows; a larger pipeline's successful ones are counted instead
FAILURES = 5  # failed steps that the final report explains
MEMBERS = 20  # of a foreach step that are shown one by one; those of a larger one are counted


def cause(record: Mapping[str, Any]) -> str:
    """Return what ended an attempt, in a few words: ``user (exit 3)``, ``oom (signal 9)``, ``success``."""
    if record["class"] in (outcome.SUCCESS, SKIPPED):
        return str(record["class"])
    if record.get("signal"):
        return f"{record['class']} (signal {record['signal']})"
    status = record.get("status")
    return f"{record['class']} (exit {record['exit_code'] if status is None else status})"


def large(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the foreach steps that have too many members to show each, and these members."""
    found: dict[str, list[str]] = {}
    for name in names:
        if "." in name:  # no other step's name has one
            found.setdefault(name.rpartition(".")[0], []).append(name)
    return {group: members for group, members in found.items() if len(members) > MEMBERS}


def together(states: Sequence[str]) -> tuple[str, str]:
    """Return one state for many steps, and how many are in which, such as ``98 success, 2 running``."""
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    order = (RETRY, RUNNING, "unknown", WAITING, SKIPPED, outcome.SUCCESS)
    failed = [state for state in counts if state not in order]
    first = next(iter([*failed, *(state for state in order if state in counts)]))
    return first, ", ".join(f"{count} {state}" for state, count in counts.items())


def folded(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the rows of a table of steps, with one for all members of a large foreach step, and one for each that failed."""
    groups = large(name for name, _ in rows)
    records = dict(rows)
    done: dict[str, Mapping[str, Any]] = {}
    for name, record in rows:
        group = name.rpartition(".")[0]
        if group not in groups:
            done[name] = record
            continue
        title = f"{group} ({len(groups[group])})"
        if title not in done:
            state, counts = together([records[member]["class"] for member in groups[group]])
            done[title] = {"class": state, "counts": counts}
        if record["class"] not in (outcome.SUCCESS, SKIPPED, RUNNING, WAITING, RETRY):
            done[name] = record
    return list(done.items())


def log_tail(store: Store, run: str, step: str, attempt: int) -> list[str]:
    """Return the last lines of an attempt's log; none where it can't be read."""
    from backends.store.logs import log_chunks

    data = b""
    try:
        for chunk in log_chunks(store, run, step, attempt):
            data = (data + chunk)[-TAIL_BYTES:]
    except (errors.ZenRunnerError, OSError):
        return []
    lines = data.decode("utf-8", "replace").rstrip("\n").split("\n")
    return [visible(line) for line in lines[-TAIL_LINES:]] if data.strip() else []


def finish(summary: Mapping[str, Any], config: Mapping[str, Any], store: Store, resume: str, colour: bool = False) -> list[str]:
    """Return the report at the end of a run, in lines.

    Args:
        summary: what the driver returned.
        config: the resolved config.
        store: where the run's records are.
        resume: the command that resumes the run.
        colour: write colours for a terminal.
    """
    records: Mapping[str, dict[str, Any]] = summary["steps"]
    skipped = {"class": SKIPPED}
    rows = folded([(name, records.get(name, skipped)) for name in graph.in_order(config["steps"])])
    hidden = 0
    if len(rows) > ROWS:
        left = [row for row in rows if row[1]["class"] not in (outcome.SUCCESS, SKIPPED)][:ROWS]
        hidden = len(rows) - len(left)
        rows = left
    lines = ["", *(table(rows, colour, summary["resumed"]) if rows else [])]
    if hidden:
        lines.append(f"… and {hidden} more steps")
    if summary["class"] == outcome.SUCCESS and not hidden:
        lines += _products(records, [name for name in graph.in_order(config["steps"]) if name in records], store)
    failed = [record for record in records.values() if record["class"] not in (outcome.SUCCESS, SKIPPED)]
    for record in failed[:FAILURES]:
        lines += _failure(record, store, colour)
    if len(failed) > FAILURES:
        lines += ["", f"… and {len(failed) - FAILURES} more failed steps"]
    head = f"run {summary['run']}: {verdict(summary['class'])} in {duration(summary['seconds'])}"
    lines += ["", paint(head, summary["class"], colour)]
    if summary["class"] != outcome.SUCCESS:
        if summary["message"] and not failed:
            lines.append(summary["message"])
        lines.append("resume with: " + resume)
    return lines


def verdict(state: str) -> str:
    """Return how a run stands in words: a class that is a failure says so."""
    return state if state in (outcome.SUCCESS, RUNNING, WAITING, "unknown") else f"failed ({state})"


def table(rows: Sequence[tuple[str, Mapping[str, Any]]], colour: bool, resumed: Sequence[str] = ()) -> list[str]:
    """Return a table of steps: name, state, time, attempt.

    Args:
        rows: pairs of a step and its record, which may have as little as its class.
        colour: write colours for a terminal.
        resumed: the steps that an earlier driver of the run finished.
    """
    before = set(resumed)
    cells = [("STEP", "STATE", "TIME", "ATTEMPT")]
    for name, record in rows:
        cached = record.get("cached_from")
        seconds = record.get("seconds")
        cells.append(
            (
                name,
                cause(record) if "exit_code" in record else record.get("counts") or record["class"],
                "" if seconds is None else duration(seconds),
                str(record.get("attempt") or "") + (" (cached)" if cached else " (earlier)" if name in before else ""),
            )
        )
    head, *lines = columns(cells)
    return [head, *(paint(line, record["class"], colour) for line, (_, record) in zip(lines, rows, strict=True))]


def _products(records: Mapping[str, dict[str, Any]], names: list[str], store: Store) -> list[str]:
    outputs, values = [], []
    groups = large(names)
    for group, members in groups.items():
        first = records[members[0]]
        for output in sorted(first["outputs"]):
            known = [records[member]["outputs"][output].get("size") or 0 for member in members]
            where = store.url_of(keys.step(first["run"], f"{group}.*"))
            outputs.append((f"{group}.{output} ({len(members)})", size(sum(known)), where))
    for name in names:
        if name.rpartition(".")[0] in groups:
            continue
        for output, artifact in sorted(records[name]["outputs"].items()):
            known = artifact.get("size")  # what a step wrote to a URL by itself is not measured
            outputs.append((f"{name}.{output}", "" if known is None else size(known), store.url_of(artifact["key"])))
        for value, content in sorted(records[name]["values"].items()):
            text = wire.dumps(content)
            values.append((f"{name}.{value}", text if len(text) <= 200 else text[:199] + "…"))
    lines = []
    if outputs:
        lines += ["", *columns([("OUTPUT", "SIZE", "WHERE"), *outputs])]
    if values:
        lines += ["", *columns([("VALUE", ""), *values])]
    return lines


def _failure(record: Mapping[str, Any], store: Store, colour: bool) -> list[str]:
    lines = ["", paint(f"step '{record['step']}' failed: {cause(record)}", record["class"], colour)]
    if record.get("message"):
        lines.append(f"  {record['message']}")
    attempt = record.get("attempt")
    if attempt:
        tail = log_tail(store, record["run"], record["step"], attempt)
        if tail:
            lines += ["  the end of its log:", *(f"    {line}" for line in tail)]
        lines.append(f"  the whole log: {store.url_of(keys.logs(record['run'], record['step'], attempt))}")
    return lines
