"""The configs that tests run, and the files beside them."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from entrypoint.runtime import load


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


def resolved(steps: Mapping[str, Mapping[str, Any]], /, *, base: str = "/", **document: Any) -> dict[str, Any]:
    """Return what the resolver makes of a config, called ``p`` and with a store in a bucket unless it says otherwise.

    Args:
        steps: by name; each runs ``true`` unless it says otherwise.
        base: the config's directory.
        document: other keys of the config.
    """
    kinds = {"run", "call", "beam", "spark"}
    whole = {name: {**({} if kinds & set(step) else {"run": ["true"]}), **step} for name, step in steps.items()}
    text = json.dumps({"version": 1, "name": "p", "store": "s3://bucket/prefix", "code": None, **document, "steps": whole})
    return load.load(load.Source(text.encode(), "config.json", base), environ={})[0]
