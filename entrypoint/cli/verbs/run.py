"""`run`: run a pipeline, or one step of it, from here."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from backends import errors, outcome
from backends.store import keys, open_store, records
from entrypoint.cli.backends import backend_for_run
from entrypoint.cli.config import load_config, steps_called, steps_in_order
from entrypoint.cli.last_words import leave_last_words, refuse
from entrypoint.cli.parser import JSON, add_backend, add_config_and_set, add_output
from entrypoint.cli.plan import make_plan, plan_table
from entrypoint.cli.printing import print_json, print_text
from entrypoint.cli.runs import resume_command, runs_of
from entrypoint.runtime.identity import identity

if TYPE_CHECKING:
    from backends.store.base import Store
    from backends.store.records import Summary
    from entrypoint.cli.config import Config, Environ
    from entrypoint.cli.parser import Parser


def arguments(parser: Parser) -> None:
    """Add the verb's arguments to a parser."""
    add_config_and_set(parser)
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
    add_output(parser, "live on a terminal, else lines", "one JSON event per line on stdout, step output on stderr")


def main(args: argparse.Namespace, environ: Environ) -> int:
    """Run the pipeline, or one step of it.

    The last line on stderr is the run's record, unless stderr is a terminal.
    """
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
            from entrypoint.runtime.one_step import run_step  # 20 ms, which a run elsewhere and a dry run do without

            steps_called(config, name)
            return run_step(config, sha, name, args.run_id, environ)
        record = _run_pipeline(args, config, sha, environ)
    except errors.ZenRunnerError as error:
        return refuse(error, name, args.run_id)
    leave_last_words(record)
    return int(record["exit_code"])


def _run_pipeline(args: argparse.Namespace, config: Config, sha: str, environ: Environ) -> Summary:
    # A single step and a dry run do without these.
    from backends.execution import Execution
    from entrypoint.cli.reporters import reporter_for
    from entrypoint.cli.signals import listen_for_stop
    from entrypoint.runtime.launcher import LocalLauncher

    backend = backend_for_run(args, config)
    store = open_store(config["store"])
    run = _run_id(args, config, store, environ)
    reporter = reporter_for(args.output, config, store, resume_command("run", args, run), quiet=args.quiet)
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
    if args.resume:
        unfinished = [run for run in runs_of(store, config["name"]) if run.get("class") != outcome.SUCCESS]
        if not unfinished:
            raise errors.UsageError(f"no unfinished run of {config['name']!r} in {store.url}; leave --resume away")
        return str(unfinished[-1]["run"])
    return keys.check_run_id(args.run_id or identity(environ)[0] or keys.new_run_id(config["name"]))


def _dry_run(args: argparse.Namespace, config: Config, only: str | None, environ: Environ) -> int:
    good: set[str] = set()
    run = None
    if args.run_id or args.resume:
        store = open_store(config["store"])
        run = _run_id(args, config, store, environ)
        good = {name for name, record in records.results(store, run).items() if record["class"] == outcome.SUCCESS}
    plan = make_plan(config, steps_called(config, only) if only else steps_in_order(config), good)
    if args.output == JSON:
        print_json({"name": config["name"], "store": config["store"], "run": run, "plan": plan})
    else:
        head = f"{config['name']}: {len(plan)} steps, store {config['store']}"
        print_text("\n".join([head, "", *plan_table(config, plan)]))
    return 0
