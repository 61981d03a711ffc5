"""What an attempt leaves on this machine once it is over."""

from __future__ import annotations

import os
import stat

from backends import outcome
from backends.store import keys, trees

TYPE_CHECKING = False
if TYPE_CHECKING:
    from backends.store.records import Record
    from entrypoint.runtime.claimed import Claimed


def clear(claimed: Claimed, record: Record) -> None:
    """Remove an attempt's scratch directory; what a failed one had written stays in the store's directory, for a look.

    Of a step's failed attempts the last one's is kept, until an attempt succeeds.
    """
    store, (run, step, number) = claimed.task.run.store, claimed.attempt.place
    if store.root is not None:
        for earlier in range(1, number):
            trees.remove(store.url_of(keys.unpublished(run, step, earlier)))
        if record["class"] != outcome.SUCCESS:
            _keep(claimed.file("out"), store.url_of(keys.unpublished(run, step, number)))
    _remove(claimed.scratch)


def _keep(folder: str, target: str) -> None:
    try:
        mode = os.lstat(folder).st_mode
        if stat.S_ISDIR(mode) and os.listdir(folder):
            if mode & 0o700 != 0o700:
                trees.set_mode(folder, stat.S_IMODE(mode) | 0o700)
            os.rename(folder, target)
    except OSError:
        pass  # for a look, and no more


def _remove(folder: str) -> None:
    try:  # the usual few entries; a step may have left anything
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if name in ("out", "in"):
                os.rmdir(path)
            else:
                os.unlink(path)
        os.rmdir(folder)
    except OSError:
        trees.remove(folder)
