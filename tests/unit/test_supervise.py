"""The supervisor's own loop; with real steps it is tested in tests/integration."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

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


@pytest.mark.parametrize("end", ["supervisor.deafen()", "supervisor.close(); beat()"])
@pytest.mark.processes
def test_a_beat_that_goes_on_does_not_kill_the_interpreter_at_its_end(end: str) -> None:
    program = f"""
from entrypoint.runtime.supervise import Supervisor
supervisor = Supervisor()
beat = lambda: supervisor.beat(0.0005, lambda: None)
beat()
{end}
"""
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
