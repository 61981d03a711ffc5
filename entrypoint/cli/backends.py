"""The backend that a command line means."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backends import base, errors, registry, wire
from backends.base import OrchestratorBaseBackend
from backends.text import did_you_mean

if TYPE_CHECKING:
    from entrypoint.cli.config import Config


def backend_for_run(args: argparse.Namespace, config: Config) -> OrchestratorBaseBackend:
    """Return the backend that runs the steps from here: the one that ``--backend`` names, else the local one."""
    block = block_of(config, args.backend) if args.backend else config["backend"]
    if not args.backend and block["source"] != "local":
        block = {"type": "orchestrator", "source": "local", "args": {}}
    changed = {"max_parallel": args.max_parallel, "keep_going": args.keep_going or None}
    given = {name: value for name, value in changed.items() if value is not None}
    return load_orchestrator({**block, "args": {**block["args"], **given}})


def backend_for_submit(args: argparse.Namespace, config: Config) -> OrchestratorBaseBackend:
    """Return the backend that ``--backend`` names, else the config's."""
    return load_orchestrator(block_of(config, args.backend) if args.backend else config["backend"])


def block_of(config: Config, name: str) -> dict[str, Any]:
    """Return the block of the orchestrator that ``--backend`` means: a name, or the block itself as JSON.

    The config stays as it is, so that a run can be resumed on another backend.

    Raises:
        UsageError: there is no such backend.
    """
    if name.startswith("{"):
        try:
            block = wire.loads(name)
        except ValueError as error:
            raise errors.UsageError(f"--backend begins as JSON but is none: {error}") from error
        return {"args": {}, **block}
    if name in config["backends"]:
        return dict(config["backends"][name])
    if ":" not in name and not registry.is_registered("orchestrator", name):
        names = list(dict.fromkeys([*config["backends"], *registry.names("orchestrator")]))
        raise errors.UsageError(f"no backend {name!r}{did_you_mean(name, names)}; there are {', '.join(names)}")
    return {"type": "orchestrator", "source": name, "args": {}}


def load_orchestrator(block: Mapping[str, Any]) -> OrchestratorBaseBackend:
    """Return the orchestrator of a backend block.

    Raises:
        ConfigError: the block is wrong.
    """
    backend = base.load(block, "orchestrator")
    assert isinstance(backend, OrchestratorBaseBackend)
    return backend
