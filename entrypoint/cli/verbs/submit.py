"""`submit`: start a pipeline on its platform."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import TYPE_CHECKING

from backends import wire
from backends.store import keys, open_store, records
from entrypoint.cli.backends import backend_for_submit
from entrypoint.cli.config import load_config
from entrypoint.cli.documents import print_documents, print_receipt, render_documents
from entrypoint.cli.parser import JSON, PROGRAM, TEXT, YAML, add_backend, add_config_and_set
from entrypoint.cli.printing import print_json, print_text
from entrypoint.cli.reporters import reporter_for
from entrypoint.cli.runs import resume_command
from entrypoint.cli.signals import listen_for_stop

if TYPE_CHECKING:
    from backends.base import OrchestratorBaseBackend
    from backends.store.base import Store
    from backends.store.records import Handle
    from entrypoint.cli.config import Config, Environ
    from entrypoint.cli.parser import Parser


def arguments(parser: Parser) -> None:
    """Add the verb's arguments to a parser."""
    add_config_and_set(parser)
    add_backend(parser, "the config's `backend:`")
    parser.add_argument(
        "--run-id", metavar="RUN", help="the run's id (default: a new one); a run that was submitted is found or completed"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="print the documents that the backend would hand over")
    how.add_argument("--wait", action="store_true", help="wait for the run's end, and exit with its status; Ctrl-C cancels it")
    how.add_argument("--detach", action="store_true", help="come back as soon as it is submitted (the default)")
    parser.add_argument(
        "-o",
        "--output",
        choices=(TEXT, JSON, YAML),
        default=TEXT,
        help="text: the run's id, or with --dry-run the documents as YAML; json, yaml: the backend's handle, or the documents "
        "(default: text)",
    )


def main(args: argparse.Namespace, environ: Environ) -> int:
    """Submit the pipeline, and follow it to its end if asked to; print the run's id, or the backend's handle."""
    config, _ = load_config(args, environ)
    backend = backend_for_submit(args, config)
    if args.dry_run:
        print_documents(render_documents(backend, config, args.run_id), args.output)
        return 0
    run = keys.check_run_id(args.run_id or keys.new_run_id(config["name"]))
    store = open_store(config["store"])
    handle = backend.submit(config, run, store)
    print_receipt(handle.get("code"))
    if records.read_handle(store, run) is None:
        handle = {**handle, "run": run, "store": store.url, "backend": backend.to_config()}
        store.put(keys.handle(run), wire.dumps(handle).encode())
    if args.wait:
        return _wait(args, backend, handle, config, store, environ)
    if args.output != TEXT:
        print_documents([dict(handle)], YAML) if args.output == YAML else print_json(handle)
        return 0
    print_text(run)
    where = ["--config", args.config] if args.config else ["--store", store.url]
    for verb in (["status"], ["logs", "-f"], ["cancel"]):
        sys.stderr.write(f"  {shlex.join([PROGRAM, *verb, *where, run])}\n")
    return 0


def _wait(
    args: argparse.Namespace,
    backend: OrchestratorBaseBackend,
    handle: Handle,
    config: Config,
    store: Store,
    environ: Environ,
) -> int:
    """Follow a submitted run to its end and return its exit status; a stop signal cancels it."""
    stop_requested = listen_for_stop()
    if args.output == TEXT:
        print_text(handle["run"])
    output = JSON if args.output == JSON else TEXT
    reporter = reporter_for(output, config, store, resume_command("submit", args, handle["run"]))
    try:
        return int(backend.wait(handle, report=reporter.report, stop_requested=stop_requested)["exit_code"])
    finally:
        reporter.close()
