"""How much the scheduler costs: pipelines of 1,000, 5,000 and 10,000 steps with a launcher that runs nothing.

The launcher claims each step and writes its result, as a real one does, so that the figure is the whole of what the
project adds to a step besides the step's own process. Each size runs in a process of its own, for its own peak memory.

The store is in memory where there is ``/dev/shm``: creating a file on a disk takes anything from 10 µs to 1 ms, which is
no figure of ours. ``floor_ms_per_step`` says what the same directories and files cost when nobody decides anything. One
size alone, and on a disk: ``python -m benchmarks.dag 10000 layers /tmp``.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.measure import Figure
from tests.support.configs import resolved

SIZES = (1_000, 5_000, 10_000)
ROUNDS = 3
WHERE = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()
MS_PER_STEP = 0.5
LINEAR = 2.0
PEAK_MB = 200.0
WIDTH = 100
"""Steps side by side in the shape ``layers``; each waits for two of the layer before."""


def config_of(size: int, shape: str, store: str) -> dict[str, Any]:
    """Return a resolved config with ``size`` steps.

    Args:
        size: the number of steps.
        shape: ``layers`` (of ``WIDTH`` steps with two parents each), ``chain``, or ``wide`` (all independent).
        store: the store's directory.
    """
    # One step goes through the resolver: it takes more memory for all of them than the driver, which is measured here.
    config = resolved({"s": {"call": "work:run", "outputs": ["out"]}}, name="bench", store=store)
    step = config["steps"]["s"]
    steps: dict[str, object] = {}
    for index in range(size):
        if shape == "chain":
            parents = [index - 1] if index else []
        elif shape == "layers" and index >= WIDTH:
            first = index - WIDTH
            parents = sorted({first, first + 1 if (first + 1) % WIDTH else first + 1 - WIDTH})
        else:
            parents = []
        names = [f"s{parent:05d}" for parent in parents]
        inputs = {f"in{at}": {"step": name, "output": "out"} for at, name in enumerate(names)}
        steps[f"s{index:05d}"] = {**step, "args": {"n": index}, "inputs": inputs, "parents": names}
    return {**config, "steps": steps}


def floor(size: int, folder: str) -> float:
    """Return the seconds that a run's directories and files take to create, without claims, order or retries."""
    began = time.perf_counter()
    for index in range(size):
        attempt = f"{folder}/{index}/1"
        os.makedirs(attempt)
        for name, data in (("claim.json", b"c" * 300), ("result.json", b"r" * 500)):
            with open(f"{attempt}/{name}", "xb", buffering=0) as file:
                file.write(data)
    return time.perf_counter() - began


def measure(size: int, shape: str, where: str) -> dict[str, Any]:
    """Drive one pipeline in this process, its store in the directory ``where``, and return its figures."""
    from backends.execution import Execution
    from backends.orchestrator.driven.driver import drive
    from backends.process import utc
    from backends.store import open_store
    from backends.store.base import Store
    from backends.store.claims import Candidate

    class NullLauncher:
        """Claims and finishes at once; nothing runs in between."""

        def __init__(self, store: Store, run: str) -> None:
            self.store, self.run = store, run
            self.over: list[dict[str, object]] = []

        def start(self, step: str, memory: int | None) -> None:
            attempt = Candidate(self.store, self.run, step, {}).claim()
            if attempt is None:
                raise SystemExit(f"another holds step {step}")
            now = utc()
            record: dict[str, object] = {
                "version": 1,
                "run": self.run,
                "step": step,
                "attempt": attempt.number,
                "class": "success",
                "exit_code": 0,
                "message": "",
                "started": now,
                "ended": now,
                "seconds": 0.0,
                "status": 0,
                "signal": None,
                "inputs": {},
                "outputs": {"out": {"key": f"{attempt.prefix}/out/out", "digest": "sha256:" + "0" * 64, "size": 1}},
                "values": {},
                "config": "0" * 64,
                "usage": {},
                "host": "here",
                "cached_from": None,
            }
            attempt.finish(record)
            self.over.append(record)

        def wait(self, timeout: float | None) -> list[Any]:
            over, self.over = self.over, []
            return over

        def stop(self, step: str | None = None) -> None:
            pass

        def close(self) -> None:
            pass

    with tempfile.TemporaryDirectory(dir=where) as folder:
        bare = floor(size, f"{folder}/floor")
        config = config_of(size, shape, folder)
        store = open_store(folder)
        began, cpu = time.perf_counter(), time.process_time()
        summary = drive(Execution(config, "bench", store), NullLauncher(store, "bench"), max_parallel=8)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        if summary["class"] != "success" or len(summary["steps"]) != size:
            raise SystemExit(f"the run did not do its {size} steps: {summary['class']}, {summary['message']}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "steps": size,
        "shape": shape,
        "seconds": round(seconds, 3),
        "ms_per_step": round(seconds / size * 1000, 4),
        "cpu_ms_per_step": round(cpu / size * 1000, 4),
        "floor_ms_per_step": round(bare / size * 1000, 4),
        "peak_mb": round(peak, 1),
    }


def figures() -> Iterator[Figure]:
    """Yield the figures of ``benchmarks.dag``."""
    for shape in ("layers", "chain"):
        best = {size: min((_alone(size, shape) for _ in range(ROUNDS)), key=lambda one: one["ms_per_step"]) for size in SIZES}
        small, large = best[SIZES[0]], best[SIZES[-1]]
        each = ", ".join(f"{one['ms_per_step']:.3f} ms at {size:,}" for size, one in best.items())
        detail = f"best of {ROUNDS}: {each}; the same files and nothing else {large['floor_ms_per_step']:.3f} ms; in {WHERE}"
        name = f"dag: {SIZES[-1]:,} steps in {shape}"
        yield Figure(f"{name}, a step", large["ms_per_step"], "ms", MS_PER_STEP, detail)
        yield Figure(f"{name}, a step against {SIZES[0]:,}", large["ms_per_step"] / small["ms_per_step"], "x", LINEAR, "linear")
        yield Figure(f"{name}, peak memory", large["peak_mb"], "MB", PEAK_MB, f"{small['peak_mb']} MB at {SIZES[0]:,}")


def _alone(size: int, shape: str) -> dict[str, float]:
    argv = [sys.executable, "-m", "benchmarks.dag", str(size), shape, WHERE]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), sys.argv[2], sys.argv[3])))
