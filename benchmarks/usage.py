"""What it costs to look at a step's use: CPU seconds of the supervisor while a step runs, against the seconds that pass."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Figure
from benchmarks.start import LAUNCH

PYTHON = sys.executable
SECONDS = 24.0  # of a step
SETTLED = 3.0  # seconds after which the start is over, and the first look with its import
BUDGET = 1.0  # percent of a core

# A step of several processes and threads that compute and now and then print, as a data loader with workers is.
STEP = """\
import multiprocessing, sys, threading, time

def work(seconds):
    until = time.monotonic() + seconds
    for _ in range(6):
        threading.Thread(target=time.sleep, args=(seconds,), daemon=True).start()
    while time.monotonic() < until:
        sum(range(2000))
        time.sleep(0.05)

if __name__ == "__main__":
    some = [multiprocessing.Process(target=work, args=({seconds},)) for _ in range({workers})]
    for one in some:
        one.start()
    for number in range(int({seconds})):
        print("epoch", number, flush=True)
        time.sleep(1)
    for one in some:
        one.join()
"""
IDLE = "import os, sys, time\nfor _ in range({0}):\n    if not os.fork():\n        time.sleep({1})\n        os._exit(0)\n"
IDLE += "print(flush=True)\nfor _ in range({0}):\n    os.wait()\n"


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of one process, its children not included.

    Source: the kernel's Documentation/scheduler/sched-stats.rst, "/proc/<pid>/schedstat".
    """
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def measure(workers: int, gpus: int = 0, library: str | None = None) -> tuple[float, str]:
    """Return the percent of a core that the supervisor takes while a step of so many workers runs, and the details."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "step.py").write_text(STEP.format(seconds=SECONDS, workers=workers))
        steps = {"s": {"run": [PYTHON, "step.py"], "resources": {"gpu": gpus}}}
        Path(folder, "config.json").write_text(json.dumps({"version": 1, "store": "./runs", "steps": steps}))
        env = dict(os.environ)
        if library:
            from tests.support.fake_nvml import gpu

            Path(folder, "machine").write_text("".join(gpu(number) + "\n" for number in range(gpus)))
            env.update(LD_LIBRARY_PATH=library, FAKE_NVML=f"{folder}/machine")
        runner = subprocess.Popen(
            [*LAUNCH, "--config", "config.json", "--step", "s"],
            cwd=folder,
            env={**env, "ZEN_RUNNER_RUN_ID": "r"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(SETTLED)
        began, before = time.monotonic(), cpu_seconds(runner.pid)
        time.sleep(SECONDS - SETTLED - 1)
        passed, used = time.monotonic() - began, cpu_seconds(runner.pid) - before
        if runner.wait():
            raise RuntimeError(f"the step ended with {runner.returncode}")
        [result] = Path(folder, "runs").glob("runs/r/s/1/result.json")
        usage = json.loads(result.read_text())["usage"]
        if usage["rss_peak"] <= usage["max_rss"] or len(usage.get("gpus", ())) != gpus:
            raise RuntimeError(f"nobody looked: {usage}")
    there = sum(name.isdigit() for name in os.listdir("/proc"))
    return used / passed * 100, f"{used * 1000:.0f} ms in {passed:.1f} s, {there} processes on this machine"


def figures() -> Iterator[Figure]:
    """Measure a step alone, one beside thousands of strangers' processes, and one with GPUs."""
    what = "supervisor's share of a core while a step of 8 processes runs"
    value, detail = measure(workers=7)
    yield Figure(what, value, "%", BUDGET, detail)
    strangers = subprocess.Popen([PYTHON, "-c", IDLE.format(3000, SECONDS + 15)], stdout=subprocess.PIPE)
    try:
        assert strangers.stdout is not None
        strangers.stdout.readline()
        value, detail = measure(workers=7)
        yield Figure(f"{what} beside 3,000 other processes", value, "%", BUDGET, detail)
    finally:
        strangers.wait()
    from tests.support.fake_nvml import build

    with tempfile.TemporaryDirectory() as folder:
        value, detail = measure(workers=7, gpus=8, library=str(build(Path(folder))))
        yield Figure(f"{what} on 8 GPUs (of a fake NVML, which answers at once)", value, "%", BUDGET, detail)
