"""How much the cpu image adds to its base, compressed, and how long a build takes that changes nothing."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Figure, wall

ROOT = Path(__file__).resolve().parent.parent
IMAGE = "zen-runner:cpu"


def layers(image: str) -> list[bytes]:
    """Return an image's layers, uncompressed, the lowest first."""
    saved = subprocess.run(["docker", "save", image], check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(saved)) as archive:

        def member(name: str) -> bytes:
            file = archive.extractfile(name)
            assert file is not None
            return file.read()

        return [member(name) for name in json.loads(member("manifest.json"))[0]["Layers"]]


def figures() -> Iterator[Figure]:
    """Build, and weigh what lies over the base."""
    subprocess.run([ROOT / "images/build"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    base = subprocess.run([ROOT / "images/build", "--print-base"], check=True, capture_output=True, text=True).stdout.strip()
    below = len(layers(base))
    added = [len(gzip.compress(layer, 6)) for layer in layers(IMAGE)[below:]]
    detail = " + ".join(f"{size / 1e6:.2f}" for size in added) + f" MB over {base}, gzip -6"
    yield Figure("cpu image over its base, compressed", sum(added) / 1e6, "MB", 15, detail)
    again = wall([str(ROOT / "images/build")])
    yield Figure("build that changes nothing", again, "s", 3, "images/build")
