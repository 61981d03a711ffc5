"""What the contract and the docker orchestrator cost, against ``docker run`` of the same image doing ``python3 -c pass``."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Figure, ratio, wall
from benchmarks.start import LAUNCH

IMAGE = "zen-runner:cpu"
BARE = ["docker", "run", "--rm", "--entrypoint", "python3", IMAGE, "-c", "pass"]
FEW, MANY = 2, 10


def chain(length: int, store: Path) -> str:
    """Return a config whose steps run one after the other, each in a container."""
    run = ["python3", "-c", "pass"]
    steps = {f"s{number}": {"run": run, "after": [f"s{number - 1}"] if number else []} for number in range(length)}
    return json.dumps({"version": 1, "store": str(store), "code": None, "image": IMAGE, "steps": steps})


def figures() -> Iterator[Figure]:
    """Measure one container by hand, then one more container of a chain, so that the client's own start doesn't count."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = folder / "store"
        store.mkdir()
        for length in (1, FEW, MANY):
            (folder / f"{length}.json").write_text(chain(length, store))
        resolved = subprocess.run(
            [*LAUNCH, "resolve", "--config", "1.json", "--output", "json"], cwd=folder, check=True, capture_output=True, text=True
        ).stdout
        config = ["--env", f"ZEN_RUNNER_CONFIG={resolved}", "--env", "ZEN_RUNNER_STEP=s0"]
        mounts = ["--user", f"{os.getuid()}:0", "--volume", f"{store}:{store}"]

        yield ratio(
            "`docker run zen-runner` with a trivial step against `docker run` of the same image doing `python3 -c pass`",
            lambda: wall(["docker", "run", "--rm", *config, *mounts, IMAGE]),
            lambda: wall(BARE),
            1.15,
            rounds=30,
        )

        def step() -> float:
            short, long = (
                wall([*LAUNCH, "run", "-q", "--backend", "docker", "--max-parallel", "1", "--config", f"{length}.json"], cwd=name)
                for length in (FEW, MANY)
            )
            return (long - short) / (MANY - FEW)

        yield ratio(
            "one more docker step, a container each, against `docker run` of the same image doing `python3 -c pass`",
            step,
            lambda: sum(wall(BARE) for _ in range(4)) / 4,
            1.2,
            rounds=9,
            warmup=1,
        )
