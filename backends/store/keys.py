"""Every key of the store's layout, and the rules for ids in it."""

from __future__ import annotations

import os
import time

from backends.errors import UsageError


def handle_key(run_id: str) -> str:
    return f"runs/{run_id}/handle.json"


_RUN_ID_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def is_step(name: str) -> bool:
    """Tell whether an entry of ``runs/<run>/`` is a step's: one without a dot, or a ``foreach`` step's member, ``train.0``."""
    return "." not in name or name.rpartition(".")[2].isdecimal()


def new_run_id(name: str) -> str:
    """Return a fresh run id, ``<name>-YYYYmmdd-HHMMSS-<6 hex>`` in UTC: a file name, a label and a DNS label too."""
    slug = "".join(c if c in "abcdefghijklmnopqrstuvwxyz0123456789" else "-" for c in name.lower())[:40].strip("-")
    return f"{slug or 'run'}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.urandom(3).hex()}"


def check_run_id(run: str) -> str:
    """Return ``run`` if it can be a run id.

    Raises:
        UsageError: it is not 1 to 63 letters, digits, ``.``, ``_`` or ``-`` with a letter or digit first.
    """
    if not (0 < len(run) <= 63 and run[0] not in "._-" and _RUN_ID_CHARS.issuperset(run)):
        raise UsageError(f"run id {run!r}: use 1 to 63 letters, digits, '.', '_' and '-', beginning with a letter or a digit")
    return run
