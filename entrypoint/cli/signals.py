"""The signals that stop a command."""

from __future__ import annotations

import signal
from collections.abc import Callable


def listen_for_stop() -> Callable[[], bool]:
    """Take over the stop signals; a second Ctrl-C interrupts at once.

    Returns:
        A function that returns whether a stop signal has come.
    """
    received: list[int] = []

    def on_stop(number: int, frame: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's SIGHUP stays ignored
            signal.signal(number, on_stop)
    return lambda: bool(received)
