"""Wait for what others do, and fail if it takes too long."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], seconds: float = 60, subject: str = "it") -> None:
    """Wait for a condition.

    Args:
        condition: true when it is met.
        seconds: how long it may take.
        subject: what is waited for, for the failure.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{subject} did not come to pass within {seconds:g} s"
        time.sleep(0.02)
