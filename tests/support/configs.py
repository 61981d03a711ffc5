"""The configs that tests run, and the files beside them."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from backends.errors import ConfigError
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


def read(text: str, *overrides: str, backend: str | None = None, **environ: str) -> dict[str, Any]:
    """Return the resolved config of a text.

    Args:
        text: YAML or JSON.
        overrides: as for ``--set``.
        backend: as for ``--backend``.
        environ: the variables that it may use.
    """
    source = load.Source(textwrap.dedent(text).encode(), "cfg.yaml", "/base", "cfg")
    return load.load(source, overrides=overrides, backend=backend, environ=environ)[0]


def problems(text: str, *overrides: str, backend: str | None = None, **environ: str) -> list[str]:
    """Return what is said against a text, line by line; see ``read``."""
    with pytest.raises(ConfigError) as caught:
        read(text, *overrides, backend=backend, **environ)
    assert caught.value.exit_code == 78
    return str(caught.value).splitlines()
