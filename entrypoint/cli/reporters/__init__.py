"""How a run looks while it goes on: a live table on a terminal, plain lines elsewhere, JSON lines on request.

A reporter takes the driver's events (``report``) and the steps' output (``output``). Neither fails a run: once the reader
has gone away, nothing more is written to it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from entrypoint.cli.parser import JSON
from entrypoint.cli.reporters.lines import Json, Lines, Reporter
from entrypoint.cli.reporters.splitter import STDERR, STDOUT, Splitter
from entrypoint.cli.terminal import is_terminal, write_fd

if TYPE_CHECKING:
    from backends.store.base import Store
    from entrypoint.cli.reporters.lines import Write

__all__ = ["STDERR", "STDOUT", "Json", "Lines", "Reporter", "Splitter", "reporter_for"]


def reporter_for(
    kind: str, config: dict[str, Any], store: Store, resume: str, *, write: Write = write_fd, quiet: bool = False
) -> Reporter:
    """Return the reporter for ``--output`` and the place: JSON if asked for, live on a terminal, else plain lines."""
    if kind == JSON:
        return Json(config, store, resume, write=write, quiet=quiet)
    if is_terminal(STDERR, os.environ) and not quiet:
        try:
            from entrypoint.cli.reporters.live import Live

            return Live(config, store, resume, write=write, quiet=quiet)
        except ModuleNotFoundError:  # an image may leave rich out
            pass
    return Lines(config, store, resume, write=write, quiet=quiet)
