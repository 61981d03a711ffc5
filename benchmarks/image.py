"""How much each image adds, and how long a build of all four takes that changes nothing, or one line of the runner."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Figure, wall

ROOT = Path(__file__).resolve().parent.parent
IMAGE = "zen-runner:cpu"
# MB in the engine over cpu, uncompressed: what an upgrade of the engine may add before somebody has to look.
BUDGETS = {"beam": 600, "spark": 900, "cuda": 3600}


def layers(image: str) -> list[bytes]:
    """Return an image's layers, uncompressed, the lowest first."""
    saved = subprocess.run(["docker", "save", image], check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(saved)) as archive:

        def member(name: str) -> bytes:
            file = archive.extractfile(name)
            assert file is not None
            return file.read()

        return [member(name) for name in json.loads(member("manifest.json"))[0]["Layers"]]


def size(image: str) -> int:
    """Return what an image takes in the engine, in bytes."""
    asked = subprocess.run(["docker", "image", "inspect", "--format", "{{.Size}}", image], check=True, capture_output=True)
    return int(asked.stdout)


def after_a_change() -> float:
    """Return the seconds that a build of all four takes after one line of the runner changed, in a copy of this checkout."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        for part in ("images", "entrypoint", "backends"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        for file in ("docker-bake.hcl", ".dockerignore", "pyproject.toml", "LICENSE"):
            shutil.copy(ROOT / file, copy)
        subprocess.run([copy / "images/build"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with (copy / "entrypoint/runtime/attempt.py").open("a") as module:
            module.write(f"# {time.time_ns()}\n")
        return wall([str(copy / "images/build")])


def figures() -> Iterator[Figure]:
    """Build, weigh what lies over the base and over cpu, and build again."""
    subprocess.run([ROOT / "images/build"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    base = subprocess.run([ROOT / "images/build", "--print-base"], check=True, capture_output=True, text=True).stdout.strip()
    below = len(layers(base))
    added = [len(gzip.compress(layer, 6)) for layer in layers(IMAGE)[below:]]
    detail = " + ".join(f"{part / 1e6:.2f}" for part in added) + f" MB over {base}, gzip -6"
    yield Figure("cpu image over its base, compressed", sum(added) / 1e6, "MB", 15, detail)
    for name, budget in BUDGETS.items():
        whole = size(f"zen-runner:{name}")
        over = (whole - size(IMAGE)) / 1e6
        yield Figure(f"{name} image over cpu", over, "MB", budget, f"{whole / 1e6:.0f} MB in the engine, uncompressed")
    again = wall([str(ROOT / "images/build")])
    yield Figure("build of all four that changes nothing", again, "s", 3, "images/build")
    try:
        yield Figure("build of all four after one changed line", after_a_change(), "s", 15, "images/build")
    finally:
        # The names are this checkout's again.
        subprocess.run([ROOT / "images/build"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
