"""A machine with GPUs that is a text file: the fake NVML library, made with the machine's own C compiler."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.support.ci import skip_or_fail

SOURCE = Path(__file__).resolve().parents[1] / "emulators" / "nvml.c"
GIB = 1 << 30


def build(folder: Path) -> Path:
    """Compile the library into a folder and return the folder; skip where there is no compiler, unless CI=true."""
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        skip_or_fail("the fake NVML needs a C compiler, and there is no cc, gcc or clang here")
    target = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(target), str(SOURCE)], check=True)
    return folder


def gpu(number: int, *more: str, total: int = 80 * GIB, free: int = 80 * GIB, util: int = 0) -> str:
    """Return the line of one GPU; ``more`` are such as ``mig``, ``error=15`` and ``pid=7:1024``."""
    return " ".join((f"gpu GPU-{number:08d}-0000-0000-0000-000000000000 Fake_H100 {total} {free} {util}", *more))


def uuid(number: int) -> str:
    """Return the UUID of the GPU with this number."""
    return f"GPU-{number:08d}-0000-0000-0000-000000000000"


def mig(parent: int, number: int, *more: str, total: int = 20 * GIB, free: int = 20 * GIB) -> str:
    """Return the line of one MIG instance."""
    return " ".join((f"mig {parent} {mig_uuid(number)} Fake_H100_MIG_2g.20gb {total} {free}", *more))


def mig_uuid(number: int) -> str:
    """Return the UUID of the instance with this number."""
    return f"MIG-{number:08d}-1111-1111-1111-111111111111"


class Machine:
    """The text file, and the variables that a process needs to see it.

    Args:
        library: the folder of the library.
        path: where the file goes.
    """

    def __init__(self, library: Path, path: Path) -> None:
        self.path = path
        self.env = {"LD_LIBRARY_PATH": str(library), "FAKE_NVML": str(path)}

    def has(self, *lines: str) -> None:
        """Let the machine be this, at once for whoever looks."""
        part = self.path.with_suffix(".part")
        part.write_text("".join(f"{line}\n" for line in lines))
        part.replace(self.path)
