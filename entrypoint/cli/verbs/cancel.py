"""`cancel`: end a submitted run, or the jobs that a killed one left."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backends import errors
from backends.orchestrator.driven.backend import end_jobs
from backends.process import is_alive
from backends.store import records
from entrypoint.cli.parser import add_required_run
from entrypoint.cli.printing import print_text
from entrypoint.cli.runs import backend_of, find_run

if TYPE_CHECKING:
    from entrypoint.cli.config import Environ
    from entrypoint.cli.parser import Parser


def arguments(parser: Parser) -> None:
    """Add the verb's arguments to a parser."""
    add_required_run(parser)


def main(args: argparse.Namespace, environ: Environ) -> int:
    """Ask the run's backend to end it, unless it has ended already."""
    store, run = find_run(args, environ)
    record: Mapping[str, Any] = records.read_run(store, run) or {}
    submitted = backend_of(store, run)
    if "class" in record:
        print_text(f"run {run} has ended already: {record['class']}")
        return 0
    if submitted is None:
        if not is_alive(record) and end_jobs(store, run):
            print_text(f"run {run} has nobody to drive it; its jobs were asked to stop")
            return 0
        where = f"process {record.get('pid')} on {record.get('host')}"
        raise errors.UsageError(f"run {run} was not submitted: stop {where}, with Ctrl-C or SIGTERM")
    backend, handle = submitted
    backend.cancel(handle)
    print_text(f"run {run} was asked to stop")
    return 0
