"""`status`: how a run and its steps are doing."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backends import outcome
from backends.process import is_alive
from entrypoint.cli.config import steps_in_order
from entrypoint.cli.groups import fold_members
from entrypoint.cli.parser import JSON, add_output, add_run
from entrypoint.cli.printing import print_json, print_text
from entrypoint.cli.report import steps_table, verdict
from entrypoint.cli.runs import backend_of, find_run
from entrypoint.cli.terminal import paint, wants_colour

if TYPE_CHECKING:
    from backends.store.base import Store
    from entrypoint.cli.config import Environ
    from entrypoint.cli.parser import Parser


def arguments(parser: Parser) -> None:
    """Add the verb's arguments to a parser."""
    add_run(parser)
    add_output(parser, "a table", "one object")


def main(args: argparse.Namespace, environ: Environ) -> int:
    """Print the state of a run and its steps."""
    store, run = find_run(args, environ)
    status = _state(store, run)
    if args.output == JSON:
        print_json(status)
        return 0
    colour = wants_colour(1, environ)
    lines = steps_table(fold_members(list(status["steps"].items())), colour) if status["steps"] else []
    lines += ["", paint(f"run {run}: {verdict(status['state'])}", status["state"], colour)]
    if status.get("message"):
        lines.append(status["message"])
    print_text("\n".join(lines).lstrip("\n"))
    return 0


# How this command line calls a backend's states.
_WORDS = {"pending": "waiting", "succeeded": outcome.SUCCESS, "cancelled": outcome.TERMINATED}


def _state(store: Store, run: str) -> dict[str, Any]:
    """Return what is known of a run: its record, what its backend says, and each step's state."""
    from backends.store import records

    record = records.read_run(store, run) or {}
    results = records.results(store, run)
    config = records.get_config(store, record["config"]) if record.get("config") else None
    names = steps_in_order(config) if config else sorted(results)
    submitted = backend_of(store, run)
    told: dict[str, Any] = {}
    if submitted is not None and "class" not in record:
        backend, handle = submitted
        told = backend.status(handle)
    steps: dict[str, Mapping[str, Any]] = {}
    if told and "pid" not in record:  # no driver of ours: the platform knows
        for name in names:
            word = told["steps"].get(name, "unknown")
            known = name in results and word in ("succeeded", "failed", "cancelled")
            steps[name] = results[name] if known else {"class": _WORDS.get(word, word)}
        state = told["class"] or _WORDS.get(told["state"], told["state"])
        return {"run": run, "store": store.url, "state": state, "message": told["message"], "steps": steps}
    for name in names:
        attempts = [] if "class" in record else records.attempts(store, run, name)
        last = results.get(name)
        if attempts and (last is None or last["attempt"] < attempts[-1]):
            steps[name] = {"class": _liveness(store, run, name, attempts[-1]), "attempt": attempts[-1]}
        elif last is not None:
            steps[name] = last
        else:
            steps[name] = {"class": "skipped" if "class" in record else "waiting"}
    state = record.get("class") or told.get("class") or {"pending": "waiting"}.get(told.get("state", ""))
    classes = [step["class"] for step in steps.values()]
    if state is None:
        lives = is_alive(record)
        if lives is None:
            lives = "running" in classes
        if not record and not lives and classes:  # steps that a platform ran one by one, without a driver of ours
            state = next((name for name in classes if name != outcome.SUCCESS), outcome.SUCCESS)
        else:
            state = "running" if lives else "unknown"
    message = record.get("message") or told.get("message") or ""
    if state == "unknown" and not message:
        message = "nothing is heard of what drives this run; `run --run-id` with this id resumes it"
    return {"run": run, "store": store.url, "state": state, "message": message, "steps": steps}


def _liveness(store: Store, run: str, step: str, attempt: int) -> str:
    """Return ``running`` for an attempt whose owner was heard of lately, else ``unknown``."""
    from backends.store import keys, records

    ages = [store.age(key(run, step, attempt)) for key in (keys.heartbeat, keys.claim)]
    heard = min((age for age in ages if age is not None), default=records.DEAD_AFTER + 1)
    return "running" if heard <= records.DEAD_AFTER else "unknown"
