"""What a step used is in its record: real steps under the real entrypoint."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.configs import config
from tests.support.running import USER_PYTHON, end, results, run, start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
MIB = 1 << 20
BUSY = """import time
began = time.process_time()
open('/dev/null', 'wb').write(bytes({size}))
while time.process_time() - began < {seconds}: pass"""


def use(folder: Path, script: str, **step: Any) -> dict[str, Any]:
    """Run a Python script as a step, and return the usage in its record."""
    path = config(folder, steps={"s": {"run": [USER_PYTHON, "-c", script], **step}}, retry={"limit": 0})
    done = run("--config", str(path), "--step", "s", cwd=folder, ZEN_RUNNER_RUN_ID="r")
    assert done.code == 0, done.errors
    found: dict[str, Any] = results(folder, "r", "s")[0]["usage"]
    return found


def test_a_short_step_has_its_figures_too(tmp_path: Path) -> None:
    script = f"""
import time
began = time.process_time()
while time.process_time() - began < 0.2: pass
with open({str(tmp_path / "file")!r}, "wb") as file: file.write(bytes(3 << 20))
with open({str(tmp_path / "file")!r}, "rb") as file: file.read()
"""
    usage = use(tmp_path, script)
    assert 0.2 <= usage["cpu_seconds"] < 5
    assert usage["rss_peak"] >= usage["max_rss"] > MIB
    assert 3 * MIB <= usage["io_written"] < 4 * MIB
    assert 3 * MIB <= usage["io_read"] < 10 * MIB
    assert usage["disk_written"] >= 0 and usage["disk_read"] >= 0


def test_children_count_also_when_they_have_ended(tmp_path: Path) -> None:
    child = BUSY.format(size=2 << 20, seconds=0.2)
    script = f"import subprocess, sys\nfor _ in range(3): subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    usage = use(tmp_path, script)
    assert 0.6 <= usage["cpu_seconds"] < 10
    assert 6 * MIB <= usage["io_written"] < 7 * MIB


def test_the_peak_is_of_all_processes_together(tmp_path: Path) -> None:
    child = "held = bytearray(b'x') * (60 << 20); import sys; print(flush=True); sys.stdin.read()"
    script = f"""
import subprocess, sys, time
some = [subprocess.Popen([sys.executable, "-c", {child!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)]
for one in some: one.stdout.readline()
time.sleep(2.5)  # two looks fall into it
for one in some: one.communicate()
"""
    usage = use(tmp_path, script)
    assert 60 * MIB <= usage["max_rss"] < 120 * MIB
    assert 180 * MIB <= usage["rss_peak"] < 400 * MIB


def test_a_daemon_of_the_step_counts(tmp_path: Path) -> None:
    daemon = BUSY.format(size=5 << 20, seconds=1) + "\ntime.sleep(60)"
    between = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]])"
    script = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {between!r}, {daemon!r}]).wait()
time.sleep(4.5)
"""
    usage = use(tmp_path, script)
    assert usage["cpu_seconds"] >= 0.9
    assert usage["io_written"] >= 5 * MIB


def test_a_step_of_two_at_a_time_has_only_its_own(tmp_path: Path) -> None:
    held = "held = bytearray(b'x') * ({} << 20); import time; time.sleep(3)"
    steps = {name: {"run": [USER_PYTHON, "-c", held.format(size)]} for name, size in (("small", 1), ("large", 150))}
    backend = {"type": "orchestrator", "source": "local", "args": {"max_parallel": 2}}
    done = run("run", "--config", str(config(tmp_path, steps=steps, backend=backend)), "--run-id", "r", cwd=tmp_path)
    assert done.code == 0, done.errors
    peaks = {name: results(tmp_path, "r", name)[0]["usage"]["rss_peak"] for name in steps}
    assert peaks["small"] < 100 * MIB < 150 * MIB <= peaks["large"]


def test_the_heartbeat_has_the_running_figures(tmp_path: Path) -> None:
    until = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(.05)"
    script = f"held = bytearray(b'x') * (50 << 20); {until}"
    path = config(tmp_path, steps={"s": {"run": [USER_PYTHON, "-c", script]}})
    started = start("--config", str(path), "--step", "s", cwd=tmp_path, ZEN_RUNNER_RUN_ID="r")
    beat = tmp_path / "store" / "runs" / "r" / "s" / "1" / "heartbeat.json"
    deadline = time.monotonic() + 40
    found: dict[str, Any] = {}
    while "rss" not in found:
        assert time.monotonic() < deadline, "no heartbeat with figures"
        time.sleep(0.1)
        try:
            found = json.loads(beat.read_text())["usage"]
        except (OSError, ValueError, KeyError):
            continue
    (tmp_path / "go").touch()
    assert end(started).code == 0
    assert found["rss_peak"] >= found["rss"] >= 50 * MIB
    assert found["cpu_seconds"] > 0 and found["io_read"] > 0
