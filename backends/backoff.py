"""The pause before another try."""

from __future__ import annotations

import os

TYPE_CHECKING = False


MAX_BACKOFF = 60.0
"""The longest pause before a retry, in seconds."""


def backoff(base: float, retries: int) -> float:
    """Return the pause before a retry in seconds: doubled with each, at most ``MAX_BACKOFF``, the upper half random.

    Args:
        base: the pause before the first retry, in seconds.
        retries: how many retries there were before this one.

    Source: "equal jitter", AWS Architecture Blog, "Exponential Backoff And Jitter" (2015).
    """
    full = min(base * 2.0 ** min(retries, 60), MAX_BACKOFF)
    return full * (0.5 + int.from_bytes(os.urandom(4), "big") / 2**33)
