"""`status`: how a run and its steps are doing."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backends import outcome
from backends.states import CANCELLED, ENDED, PENDING, SUCCEEDED
from backends.store import records
from entrypoint.cli.config import steps_in_order
from entrypoint.cli.groups import fold_members
from entrypoint.cli.parser import JSON, add_output, add_run
from entrypoint.cli.printing import print_json, print_text
from entrypoint.cli.report import steps_table, verdict
from entrypoint.cli.runs import find_run, view_of
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
    jobs = {name: step["job"] for name, step in status["steps"].items() if "job" in step}
    lines += [f"{name} is on {job['on']} as {job['name']}" for name, job in jobs.items()]
    lines += ["", paint(f"run {run}: {verdict(status['state'])}", status["state"], colour)]
    if status.get("message"):
        lines.append(status["message"])
    print_text("\n".join(lines).lstrip("\n"))
    return 0


# How this command line calls a backend's states.
_WORDS = {PENDING: "waiting", SUCCEEDED: outcome.SUCCESS, CANCELLED: outcome.TERMINATED}


def _state(store: Store, run: str) -> dict[str, Any]:
    """Return what is known of a run: how it does or ended, and each step's record, or its state."""
    view = view_of(store, run)
    if view is None:
        return _state_without_driver(store, run)
    status = view.look()
    steps: dict[str, Mapping[str, Any]] = {}
    for name in steps_in_order(view.config):
        state = status.states[name]
        steps[name] = status.records.get(name) or {"class": _WORDS.get(state, state)}
        if name not in status.records and name in status.attempts:
            steps[name] = {**steps[name], "attempt": status.attempts[name]}
        if name not in status.records and (view.config["steps"][name]["backend"] or {}).get("type") == "training":
            _, note = records.last_job(store, run, name)
            if note is not None:
                steps[name] = {**steps[name], "job": {"on": note["backend"]["source"], "name": note["name"]}}
    state, message = status.state(), status.reasons()
    if state in ENDED:
        state, _, message = status.verdict()
    return {"run": run, "store": store.url, "state": _WORDS.get(state, state), "message": message, "steps": steps}


def _state_without_driver(store: Store, run: str) -> dict[str, Any]:
    """Return what is known of a run whose steps a platform runs one by one, of which nothing but their records is known."""
    results = records.results(store, run)
    classes = [record["class"] for record in results.values()]
    state = next((kind for kind in classes if kind != outcome.SUCCESS), outcome.SUCCESS) if classes else "unknown"
    message = "" if classes else "nothing is heard of what drives this run; `run --run-id` with this id resumes it"
    return {"run": run, "store": store.url, "state": state, "message": message, "steps": dict(sorted(results.items()))}
