"""Claim a step, and wait as long as it takes to know whether its owner lives."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from backends.store import claims, records, watch
from backends.store.base import Store


def claim(store: Store, run: str, step: str, owner: Mapping[str, Any]) -> claims.Attempt:
    """Return the attempt that this process owns from now on.

    Raises:
        AlreadyDone: there is nothing to do.
        DuplicateError: another live attempt holds the step.
    """
    candidate = claims.Candidate(store, run, step, owner)
    while (attempt := candidate.claim()) is None:
        time.sleep(watch.LOOK_EVERY / 2)
    return attempt


@contextmanager
def hurry(times: float = 100) -> Iterator[None]:
    """Let all that watches a heartbeat be so many times as quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "LOOK_EVERY", watch.LOOK_EVERY / times)
        patch.setattr(records, "HEARTBEAT_EVERY", records.HEARTBEAT_EVERY / times)
        patch.setattr(records, "DEAD_AFTER", records.DEAD_AFTER / times)
        yield
