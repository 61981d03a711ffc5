"""The documents that a backend hands to its platform: rendered without a network, and printed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml

from backends.shipping.shipment import ship
from backends.store.keys import check_run_id
from backends.text import bytes_in_words
from entrypoint.cli.parser import JSON
from entrypoint.cli.printing import print_json
from entrypoint.cli.terminal import escaped
from entrypoint.runtime import job_documents

if TYPE_CHECKING:
    from backends.base import OrchestratorBaseBackend
    from entrypoint.cli.config import Config


def render_documents(backend: OrchestratorBaseBackend, config: Config, run: str | None) -> list[dict[str, Any]]:
    """Return what a backend would hand to its platform, just as ``submit`` would, without a network.

    The documents of steps that run as jobs of another platform come last; their containers start when their turn comes.

    Args:
        backend: the backend.
        config: the resolved config.
        run: the run's id; None for the backend's placeholder of one.
    """
    whole = config
    if backend.ships:
        with TemporaryDirectory(prefix="zen-runner-") as folder:
            shipment = ship(config, folder, mounts=backend.mounts())
        print_receipt(shipment.receipt)
        config = shipment.config
    documents = backend.render(config) if run is None else backend.render(config, check_run_id(run))
    return [*documents, *job_documents.render(whole, run or "RUN")]


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True  # documents are read one by one, and by people


def print_documents(documents: list[dict[str, Any]], form: str) -> None:
    """Print documents as one JSON list, or as YAML, one after another."""
    if form == JSON:
        print_json(documents)
    else:
        yaml.dump_all(documents, sys.stdout, _Dumper, sort_keys=False, explicit_start=True)


def print_receipt(receipt: Mapping[str, Any] | None) -> None:
    """Print on stderr how much code ships; nothing if none does."""
    if receipt is None:
        return
    rules = {"git": ", by git's rules", ".zenignore": ", by .zenignore"}.get(receipt["ignored_by"], "")
    lines = [f"code: {receipt['files']} files, {bytes_in_words(receipt['bytes'])}{rules}, sha256:{receipt['sha256']}"]
    lines += [f"code: {warning}" for warning in receipt["warnings"]]
    sys.stderr.write("".join(f"{escaped(line, one_line=True)}\n" for line in lines))
