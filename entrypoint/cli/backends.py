"""Which backend and which run a command line means."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backends import errors
from entrypoint.cli.common import load_config, print_json
from entrypoint.cli.parser import JSON

if TYPE_CHECKING:
    from backends.base import OrchestratorBaseBackend
    from backends.store.base import Store
    from entrypoint.cli.parser import Config, Environ


def orchestrator(args: argparse.Namespace, config: Config) -> OrchestratorBaseBackend:
    """Return the backend that runs the steps from here: the one that ``--backend`` names, else the local one."""
    block = block_of(config, args.backend) if args.backend else config["backend"]
    if not args.backend and block["source"] != "local":
        block = {"type": "orchestrator", "source": "local", "args": {}}
    changed = {"max_parallel": args.max_parallel, "keep_going": args.keep_going or None}
    given = {name: value for name, value in changed.items() if value is not None}
    return load_orchestrator({**block, "args": {**block["args"], **given}})


def block_of(config: Config, name: str) -> dict[str, Any]:
    """Return the block of the orchestrator that ``--backend`` means: a name, or the block itself as JSON.

    The config stays as it is, so that a run can be resumed on another backend.
    """
    from backends import registry, wire
    from backends.text import did_you_mean

    if name.startswith("{"):
        try:
            block = wire.loads(name)
        except ValueError as error:
            raise errors.UsageError(f"--backend begins as JSON but is none: {error}") from error
        return {"args": {}, **block}
    if name in config["backends"]:
        return dict(config["backends"][name])
    if ":" not in name and not registry.is_registered("orchestrator", name):
        known = list(dict.fromkeys([*config["backends"], *registry.names("orchestrator")]))
        raise errors.UsageError(f"no backend {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}")
    return {"type": "orchestrator", "source": name, "args": {}}


def load_orchestrator(block: Mapping[str, Any]) -> OrchestratorBaseBackend:
    from backends import base
    from backends.base import OrchestratorBaseBackend

    backend = base.load(block, "orchestrator")
    assert isinstance(backend, OrchestratorBaseBackend)
    return backend


def runs(store: Store, name: str) -> list[dict[str, Any]]:
    """Return the records of all runs of the pipeline ``name``, the newest last."""
    from backends.store import records
    from backends.store.base import each

    def read(run: str) -> dict[str, Any] | None:
        try:
            return records.read_run(store, run)
        except errors.UsageError:
            return None  # a name that is no run id

    found = [run for run in each(store, read, records.runs(store)) if run and run.get("name") == name]
    return sorted(found, key=lambda run: str(run.get("started")))


def chosen(args: argparse.Namespace, config: Config) -> OrchestratorBaseBackend:
    """Return the backend that ``--backend`` names, else the config's."""
    return load_orchestrator(block_of(config, args.backend) if args.backend else config["backend"])


def documents(backend: OrchestratorBaseBackend, config: Config, run: str | None) -> list[dict[str, Any]]:
    """Return what a backend would hand to its platform, just as ``submit`` would, without a network."""
    if backend.ships:
        from tempfile import TemporaryDirectory

        from backends.shipping.shipment import ship

        with TemporaryDirectory(prefix="zen-runner-") as folder:
            shipment = ship(config, folder, mounts=backend.mounts())
        tell_receipt(shipment.receipt)
        config = shipment.config
    if run is None:
        return backend.render(config)
    from backends.store.keys import check_run_id

    return backend.render(config, check_run_id(run))


def print_documents(documents: list[dict[str, Any]], form: str) -> None:
    if form == JSON:
        print_json(documents)
        return
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True  # documents are read one by one, and by people

    yaml.dump_all(documents, sys.stdout, Dumper, sort_keys=False, explicit_start=True)


def tell_receipt(receipt: Mapping[str, Any] | None) -> None:
    """Say on stderr what ships of the code."""
    if receipt is None:
        return
    from entrypoint.cli.text import size

    rules = {"git": ", by git's rules", ".zenignore": ", by .zenignore"}.get(receipt["ignored_by"], "")
    lines = [f"code: {receipt['files']} files, {size(receipt['bytes'])}{rules}, sha256:{receipt['sha256']}"]
    lines += [f"code: {warning}" for warning in receipt["warnings"]]
    sys.stderr.write("".join(f"{line}\n" for line in lines))


def find_run(args: argparse.Namespace, environ: Environ) -> tuple[Store, str]:
    """Return the store and the id of the run that the command line means."""
    from backends.store import keys, open_store, records

    if args.store:
        store, name = open_store(args.store, create=False), None
    else:
        config, _ = load_config(args, environ)
        store, name = open_store(config["store"]), config["name"]
    if args.run_id:
        run = keys.check_run_id(args.run_id)
        if not store.names(keys.run(run)):
            from backends.text import did_you_mean

            raise errors.UsageError(f"no run {run!r} in {store.url}{did_you_mean(run, records.runs(store))}")
        return store, run
    if name is None:
        raise errors.UsageError("with --store, name the run too; give --config for the config's newest run")
    found = runs(store, name)
    if not found:
        raise errors.UsageError(f"no run of {name!r} in {store.url} yet")
    return store, str(found[-1]["run"])


def backend_of(store: Store, run: str) -> tuple[OrchestratorBaseBackend, dict[str, Any]] | None:
    """Return the backend that a run was submitted to and its handle; None for a run that ran where it was started."""
    from backends.store import keys, records

    handle = records.read_json(store, keys.handle(run))
    return None if handle is None else (load_orchestrator(handle["backend"]), handle)
