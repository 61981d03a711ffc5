"""Checks of the config and of its store."""

from __future__ import annotations

import os
import time

from backends import errors
from backends.store import open_store
from entrypoint.cli.doctor.finding import FAIL, NOT_APPLICABLE, OK, Finding, Place


def check_config(place: Place) -> Finding:
    """Check whether the config that was named is valid."""
    if place.config_problem is not None:
        first, *more = str(place.config_problem).splitlines() or [""]
        rest = f" (and {len(more)} more)" if more else ""
        return Finding("config", FAIL, first + rest, "zen-runner validate tells all of it")
    if place.config is None:
        return Finding("config", NOT_APPLICABLE, "no config was named", "give --config to check what its steps need")
    return Finding("config", OK, f"{place.config['name']}: {len(place.steps)} steps")


def check_store(place: Place) -> Finding:
    """Check whether the store takes an object, gives it back and deletes it."""
    if place.store is None:
        return Finding("store", NOT_APPLICABLE, "no store was named", "give --config or --store to check it")
    local = "://" not in place.store
    fresh = local and not os.path.lexists(place.store)
    key = f"doctor-{os.getpid()}-{time.time_ns():x}"
    data = key.encode()
    fix = "check the path's owner and mount" if local else "check the URL, the credentials and what they may do"
    try:
        store = open_store(place.store)
        store.put(key, data)
        back = store.get(key)
        store.delete(key)
    except (errors.ZenRunnerError, OSError) as error:
        return Finding("store", FAIL, str(error), fix)
    if fresh and store.root:
        try:
            os.rmdir(store.root)  # a check leaves nothing behind
        except OSError:
            pass
    if back != data:
        return Finding("store", FAIL, f"{store.url}: what was written did not read back the same", fix)
    return Finding("store", OK, f"{store.url}: an object was written, read and deleted")
