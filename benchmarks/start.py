"""From the start of the entrypoint to the first byte that the step prints, against ``python -c pass`` of the same interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Figure, first_byte, ratio, wall

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
SITE = next(path for path in sys.path if path.endswith("site-packages"))
# How the image starts it: no site, one directory with everything (images/ has the script).
LAUNCH = [
    PYTHON,
    "-I",
    "-S",
    "-c",
    f"import sys; sys.path += [{str(ROOT)!r}, {SITE!r}]; from entrypoint.__main__ import main; sys.exit(main())",
]
CONFIG = """\
version: 1
store: ./runs
steps:
  hello:
    call: hello:run
    args: {word: hi}
"""


def figures() -> Iterator[Figure]:
    """Measure the hot path, and the same from a person's YAML."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "hello.py").write_text("import os\n\n\ndef run(word):\n    os.write(1, word.encode())\n")
        Path(folder, "config.yaml").write_text(CONFIG)
        env = {**os.environ, "ZEN_RUNNER_PYTHON": PYTHON, "ZEN_RUNNER_STEP": "hello"}
        resolved = subprocess.run([*LAUNCH, "resolve", "--config", "config.yaml"], cwd=folder, check=True, capture_output=True)
        json.loads(resolved.stdout)
        Path(folder, "config.json").write_bytes(resolved.stdout)
        for name, file, budget in (("resolved JSON", "config.json", 3), ("YAML, validated", "config.yaml", 12)):
            yield ratio(
                f"start to the step's first byte, supervised, {name}, against `python -c pass`",
                lambda file=file: first_byte([*LAUNCH, "--config", file], env, folder),  # type: ignore[misc]
                lambda: wall([PYTHON, "-c", "pass"]),
                budget,
                rounds=40,
            )
