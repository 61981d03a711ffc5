"""The report at the end of a run, and the table of its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from backends import errors, graph, outcome, wire
from backends.store import keys
from backends.store.logs import log_chunks
from backends.text import bytes_in_words, seconds_in_words
from entrypoint.cli.groups import fold_members, large_groups
from entrypoint.cli.terminal import RUNNING, SKIPPED, WAITING, columns, escaped, paint, visible

if TYPE_CHECKING:
    from backends.store.base import Store


TAIL_LINES = 12  # lines of a failed step's log that the report shows
TAIL_BYTES = 1 << 16
ROWS = 100  # steps that the final table shows; a larger pipeline's successful ones are counted instead
FAILURES = 5  # failed steps that the final report explains


def ending(record: Mapping[str, Any]) -> str:
    """Return what ended an attempt, in a few words: ``user (exit 3)``, ``oom (signal 9)``, ``success``."""
    if record["class"] in (outcome.SUCCESS, SKIPPED):
        return str(record["class"])
    if record.get("signal"):
        return f"{record['class']} (signal {record['signal']})"
    status = record.get("status")
    return f"{record['class']} (exit {record['exit_code'] if status is None else status})"


def log_tail(store: Store, run: str, step: str, attempt: int) -> list[str]:
    """Return the last lines of an attempt's log; none where it can't be read."""
    data = b""
    try:
        for chunk in log_chunks(store, run, step, attempt):
            data = (data + chunk)[-TAIL_BYTES:]
    except (errors.ZenRunnerError, OSError):
        return []
    lines = data.decode("utf-8", "replace").rstrip("\n").split("\n")
    return [visible(line) for line in lines[-TAIL_LINES:]] if data.strip() else []


def final_report(
    summary: Mapping[str, Any], config: Mapping[str, Any], store: Store, resume: str, colour: bool = False
) -> list[str]:
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
    rows = fold_members([(name, records.get(name, skipped)) for name in graph.in_order(config["steps"])])
    hidden = 0
    if len(rows) > ROWS:
        left = [row for row in rows if row[1]["class"] not in (outcome.SUCCESS, SKIPPED)][:ROWS]
        hidden = len(rows) - len(left)
        rows = left
    lines = ["", *(steps_table(rows, colour, summary["resumed"]) if rows else [])]
    if hidden:
        lines.append(f"… and {hidden} more steps")
    if summary["class"] == outcome.SUCCESS and not hidden:
        lines += _products(records, [name for name in graph.in_order(config["steps"]) if name in records], store)
    failed = [record for record in records.values() if record["class"] not in (outcome.SUCCESS, SKIPPED)]
    for record in failed[:FAILURES]:
        lines += _failure(record, store, colour)
    if len(failed) > FAILURES:
        lines += ["", f"… and {len(failed) - FAILURES} more failed steps"]
    head = f"run {summary['run']}: {verdict(summary['class'])} in {seconds_in_words(summary['seconds'])}"
    lines += ["", paint(head, summary["class"], colour)]
    if summary["class"] != outcome.SUCCESS:
        if summary["message"] and not failed:
            lines.append(escaped(summary["message"]))
        lines.append("resume with: " + escaped(resume))
    return lines


def verdict(state: str) -> str:
    """Return a run's state for people: a class that is a failure is marked as one."""
    return state if state in (outcome.SUCCESS, RUNNING, WAITING, "unknown") else f"failed ({state})"


def steps_table(rows: Sequence[tuple[str, Mapping[str, Any]]], colour: bool, resumed: Sequence[str] = ()) -> list[str]:
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
                ending(record) if "exit_code" in record else record.get("counts") or record["class"],
                "" if seconds is None else seconds_in_words(seconds),
                str(record.get("attempt") or "") + (" (cached)" if cached else " (earlier)" if name in before else ""),
            )
        )
    head, *lines = columns(cells)
    return [head, *(paint(line, record["class"], colour) for line, (_, record) in zip(lines, rows, strict=True))]


def _products(records: Mapping[str, dict[str, Any]], names: list[str], store: Store) -> list[str]:
    outputs, values = [], []
    groups = large_groups(names)
    for group, members in groups.items():
        first = records[members[0]]
        for output in sorted(first["outputs"]):
            sizes = [records[member]["outputs"][output].get("size") or 0 for member in members]
            where = store.url_of(keys.step(first["run"], f"{group}.*"))
            outputs.append((f"{group}.{output} ({len(members)})", bytes_in_words(sum(sizes)), where))
    for name in names:
        if name.rpartition(".")[0] in groups:
            continue
        for output, artifact in sorted(records[name]["outputs"].items()):
            size = artifact.get("size")  # what a step wrote to a URL by itself is not measured
            outputs.append((f"{name}.{output}", "" if size is None else bytes_in_words(size), store.url_of(artifact["key"])))
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
    lines = ["", paint(f"step '{record['step']}' failed: {ending(record)}", record["class"], colour)]
    if record.get("message"):
        lines.append(f"  {escaped(record['message'])}")
    attempt = record.get("attempt")
    if attempt:
        tail = log_tail(store, record["run"], record["step"], attempt)
        if tail:
            lines += ["  the end of its log:", *(f"    {line}" for line in tail)]
        lines.append(f"  the whole log: {escaped(store.url_of(keys.logs(record['run'], record['step'], attempt)))}")
    return lines
