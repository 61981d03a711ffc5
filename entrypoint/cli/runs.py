"""The run that a command line means, and the backend that it was submitted to."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from backends import errors
from backends.orchestrator.driven.life import DriverLife
from backends.store import keys, open_store, records
from backends.store.base import each
from backends.text import did_you_mean
from backends.view import RunView, config_of
from entrypoint.cli.backends import load_orchestrator
from entrypoint.cli.config import load_config
from entrypoint.cli.parser import PROGRAM

if TYPE_CHECKING:
    from backends.base import OrchestratorBaseBackend
    from backends.store.base import Store
    from entrypoint.cli.config import Environ


def runs_of(store: Store, name: str) -> list[dict[str, Any]]:
    """Return the records of all runs of the pipeline ``name``, the newest last.

    Of a run that was submitted and whose driver has not written its record yet, what its handle says.
    """

    def read(run: str) -> dict[str, Any] | None:
        try:
            record = records.read_run(store, run)
            if record is None and (handle := records.read_handle(store, run)) is not None:
                record = {"run": run, "name": handle.get("name"), "started": handle.get("submitted")}
        except errors.UsageError:
            return None  # a name that is no run id
        return record

    runs = [run for run in each(store, read, records.runs(store)) if run and run.get("name") == name]
    return sorted(runs, key=lambda run: str(run.get("started")))


def find_run(args: argparse.Namespace, environ: Environ) -> tuple[Store, str]:
    """Return the store and the id of the run that the command line means.

    Raises:
        UsageError: there is no such run, or the command line names none.
    """
    if args.store:
        store, name = open_store(args.store, create=False), None
    else:
        config, _ = load_config(args, environ)
        store, name = open_store(config["store"]), config["name"]
    if args.run_id:
        run = keys.check_run_id(args.run_id)
        if not store.names(keys.run(run)):
            raise errors.UsageError(f"no run {run!r} in {store.url}{did_you_mean(run, records.runs(store))}")
        return store, run
    if name is None:
        raise errors.UsageError("with --store, name the run too; give --config for the config's newest run")
    runs = runs_of(store, name)
    if not runs:
        raise errors.UsageError(f"no run of {name!r} in {store.url} yet")
    return store, str(runs[-1]["run"])


def backend_of(store: Store, run: str) -> tuple[OrchestratorBaseBackend, dict[str, Any]] | None:
    """Return the backend that a run was submitted to and its handle; None for a run that ran where it was started."""
    handle = records.read_handle(store, run)
    return None if handle is None else (load_orchestrator(handle["backend"]), handle)


def view_of(store: Store, run: str) -> RunView | None:
    """Return what looks at a run; None for one without a driver of ours and without a handle, whose config is not known."""
    submitted = backend_of(store, run)
    if submitted is not None:
        backend, handle = submitted
        return backend.view(handle)
    record = records.read_run(store, run)
    if record is None:
        return None
    return RunView(store, run, config_of(store, record), DriverLife(store, run, None))


def resume_command(verb: str, args: argparse.Namespace, run: str) -> str:
    """Return the command that goes on with a run, as a shell takes it.

    Args:
        verb: ``run`` or ``submit``.
        args: the command line that began the run.
        run: the run's id.
    """
    words = [PROGRAM, verb]
    if args.config:
        words += ["--config", args.config]
    for override in args.overrides:
        words += ["--set", override]
    if args.backend:
        words += ["--backend", args.backend]
    return shlex.join([*words, "--run-id", run])
