"""The supervisor's own loop; with real steps it is tested in tests/integration."""

from __future__ import annotations

import threading
import time

from entrypoint.runtime.supervise import Supervisor


def test_a_poll_can_be_woken_from_another_thread_and_before_it_begins() -> None:
    supervisor = Supervisor()
    try:
        began = time.monotonic()
        supervisor.wake()
        assert supervisor.poll(60) == []
        timer = threading.Timer(0.05, supervisor.wake)
        timer.start()
        assert supervisor.poll(60) == []
        timer.join()
        assert time.monotonic() - began < 30
        assert supervisor.poll(0.05) == []  # one wake, one poll
        assert time.monotonic() - began >= 0.1
    finally:
        supervisor.close()
