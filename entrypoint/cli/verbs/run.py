"""`run`: a pipeline, or one step of it, here."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backends import errors, outcome
from entrypoint.cli.backends import orchestrator, runs
from entrypoint.cli.common import (
    listen_for_stop,
    load_config,
    print_json,
    print_text,
    quote,
    repeat,
    steps_called,
    steps_in_order,
    tell,
)
from entrypoint.cli.parser import JSON, PROGRAM, add_backend, add_config, add_output

if TYPE_CHECKING:
    from backends.store.base import Store
    from entrypoint.cli.parser import Config, Environ, Parser


def arguments(parser: Parser) -> None:
    add_config(parser)
    add_backend(parser, "local")
    parser.add_argument("--step", metavar="NAME", help="run one attempt of this step alone (default: $ZEN_RUNNER_STEP)")
    parser.add_argument(
        "--run-id", metavar="RUN", help="the run's id; one that exists is resumed (default: $ZEN_RUNNER_RUN_ID, or new)"
    )
    parser.add_argument("--resume", action="store_true", help="resume this config's newest run that has not succeeded")
    parser.add_argument("--max-parallel", metavar="N", type=int, help="steps that may run at a time")
    parser.add_argument("--keep-going", action="store_true", help="after a failure, run what does not depend on it")
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and run nothing")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, and no summary of a success")
    add_output(parser, "live on a terminal, else lines", "one JSON event a line on stdout, step output on stderr")


def main(args: argparse.Namespace, environ: Environ) -> int:
    """Run the pipeline, or one step of it; the last line on stderr is the run's record unless people read it there."""
    name = args.step or environ.get("ZEN_RUNNER_STEP")
    try:
        if args.max_parallel is not None and args.max_parallel < 1:
            raise errors.UsageError("--max-parallel must be 1 or more")
        if args.resume and args.run_id:
            raise errors.UsageError("--resume looks for a run id itself; give one of --resume and --run-id")
        config, sha = load_config(args, environ)
        if args.dry_run:
            return _dry_run(args, config, name, environ)
        if name:
            for flag in ("resume", "keep_going", "max_parallel"):
                if getattr(args, flag):
                    raise errors.UsageError(f"--{flag.replace('_', '-')} is for whole pipelines, not for one step")
            from entrypoint.runtime.one_step import run_step

            steps_called(config, name)
            return run_step(config, sha, name, args.run_id, environ)
        record = _run_pipeline(args, config, sha, environ)
    except errors.ZenRunnerError as error:
        return refuse(error, name, args.run_id)
    _last_words(record)
    return int(record["exit_code"])


def refuse(error: errors.ZenRunnerError, step: str | None, run: str | None = None) -> int:
    """Say why a run or a step can't begin, leave the last words, and return the exit status.

    Args:
        error: the reason.
        step: the step that was asked for; None for the whole pipeline.
        run: the run's id, if known.
    """
    tell(error, os.environ)
    kind, code = error.outcome_class, error.exit_code
    _last_words({"run": run, "step": step, "class": kind, "exit_code": code, "message": str(error)})
    return code


def _last_words(record: Mapping[str, Any]) -> None:
    """Leave the record in the termination log, and on stderr as its last line unless a person reads there."""
    from entrypoint.cli.text import write_fd
    from entrypoint.runtime.last_words import last_words

    line = last_words({"version": 1, "step": None, "attempt": None, **record})
    if not os.isatty(2):
        write_fd(2, line.encode())


def _run_pipeline(args: argparse.Namespace, config: Config, sha: str, environ: Environ) -> dict[str, Any]:
    from backends.execution import Execution
    from backends.store import open_store
    from entrypoint.cli import reporters
    from entrypoint.runtime.launcher import LocalLauncher

    backend = orchestrator(args, config)
    store = open_store(config["store"])
    run = _run_id(args, config, store, environ)
    reporter = reporters.choose(args.output, config, store, _resume_command(args, run), quiet=args.quiet)
    try:
        if backend.runs_here():
            launcher = LocalLauncher(config, sha, run, store, reporter.output, environ)
            stop_requested, reporter.write = launcher.stop_requested, launcher.write
        else:
            launcher, stop_requested = None, listen_for_stop()
        return backend.run(
            Execution(
                config,
                run,
                store,
                report=reporter.report,
                output=reporter.output,
                stop_requested=stop_requested,
                launcher=launcher,
            )
        )
    finally:
        reporter.close()


def _run_id(args: argparse.Namespace, config: Config, store: Store, environ: Environ) -> str:
    from backends.store.keys import check_run_id, new_run_id
    from entrypoint.runtime.identity import identity

    if args.resume:
        found = [run for run in runs(store, config["name"]) if run.get("class") != outcome.SUCCESS]
        if not found:
            raise errors.UsageError(f"no unfinished run of {config['name']!r} in {store.url}; leave --resume away")
        return str(found[-1]["run"])
    return check_run_id(args.run_id or identity(environ)[0] or new_run_id(config["name"]))


def _resume_command(args: argparse.Namespace, run: str) -> str:
    return quote([PROGRAM, "run", *repeat(args, run)])


def _dry_run(args: argparse.Namespace, config: Config, only: str | None, environ: Environ) -> int:
    from backends.store import open_store, records

    done: set[str] = set()
    run = None
    if args.run_id or args.resume:
        store = open_store(config["store"])
        run = _run_id(args, config, store, environ)
        done = {name for name, record in records.results(store, run).items() if record["class"] == outcome.SUCCESS}
    plan = []
    for name in steps_called(config, only) if only else steps_in_order(config):
        step = config["steps"][name]
        action = "skip" if name in done else "cache" if step["cache"] else "run"
        plan.append({"step": name, "action": action, "after": step["parents"], "what": _what(step)})
    if args.output == JSON:
        print_json({"name": config["name"], "store": config["store"], "run": run, "plan": plan})
        return 0
    from backends import graph
    from entrypoint.cli.report import large
    from entrypoint.cli.text import columns

    meaning = {"skip": "skip (has a good result)", "cache": "run (unless in the cache)", "run": "run"}
    rows = [("", "STEP", "DOES", "AFTER", "WHAT")]
    groups = large(row["step"] for row in plan)
    alike: dict[tuple[str, str], int] = {}
    for row in plan:
        key = row["step"].rpartition(".")[0], row["action"]
        alike[key] = alike.get(key, 0) + 1
    for number, row in enumerate(plan, 1):
        name, key = row["step"], (row["step"].rpartition(".")[0], row["action"])
        if key[0] in groups:
            if not (count := alike.pop(key, 0)):
                continue  # one line for all members that are treated alike
            name = f"{key[0]} ({count})"
        after = graph.named({parent: config["steps"][parent] for parent in row["after"]})
        rows.append((str(number), name, meaning[row["action"]], ", ".join(after) or "-", row["what"]))
    print_text("\n".join([f"{config['name']}: {len(plan)} steps, store {config['store']}", "", *columns(rows)]))
    return 0


def _what(step: Mapping[str, Any]) -> str:
    for kind in ("call", "beam", "spark"):
        if kind in step:
            return f"{kind} {step[kind]}"
    return f"run {quote(step['run'])}"
