"""The configs that tests run, and the files beside them."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any


def write(folder: Path, files: dict[str, str] | None = None, **modules: str) -> Path:
    """Write files by path, and modules by name (``mod_py=…``), and return the folder."""
    for name, text in [*(files or {}).items(), *((name.removesuffix("_py") + ".py", text) for name, text in modules.items())]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder


def config(folder: Path, **document: Any) -> Path:
    """Write a config as JSON and return its path."""
    path = folder / "config.json"
    path.write_text(json.dumps({"version": 1, "store": str(folder / "store"), **document}))
    return path
