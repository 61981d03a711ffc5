"""Threads that are waited for together."""

from __future__ import annotations

import threading
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Threads:
    """Daemon threads, which end with the process if nobody waits for them."""

    def __init__(self) -> None:
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()

    def spawn(self, work: Callable[..., object], *args: Any) -> None:
        """Begin some work in a thread of its own."""

        def run() -> None:
            try:
                work(*args)
            finally:
                with self._lock:
                    self._threads.discard(thread)

        thread = threading.Thread(target=run, name=f"zen-runner {work.__name__}", daemon=True)
        with self._lock:
            thread.start()
            self._threads.add(thread)

    def join(self, until: float) -> None:
        """Wait for the threads that there are now.

        Args:
            until: the time of the monotonic clock after which nobody waits any longer.
        """
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, until - monotonic()))
