"""The Python that has the engines: Beam and Spark are the step's, so nothing of ours can bring them."""

from __future__ import annotations

import functools
import os
import subprocess

import pytest

from tests.conftest import CI
from tests.helpers import ROOT


@functools.cache
def python_with(*modules: str) -> str:
    """Return the path of a Python that has modules; skip with the reason where there is none, and fail when CI=true.

    Args:
        modules: their names, such as ``apache_beam``.
    """
    python = _find()
    if python is None:
        why = "no Python with the engines: set $ZEN_RUNNER_TEST_ENGINES_PYTHON, or make .venv-engines"
    elif missing := _missing(python, modules):
        why = f"{python} has no {', '.join(missing)}"
    else:
        return python
    if CI:
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


def _find() -> str | None:
    named = os.environ.get("ZEN_RUNNER_TEST_ENGINES_PYTHON")
    beside = ROOT / ".venv-engines/bin/python"
    return named or (str(beside) if beside.exists() else None)


def _missing(python: str, modules: tuple[str, ...]) -> list[str]:
    code = "import importlib.util, sys; print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name) is None))"
    done = subprocess.run([python, "-c", code, *modules], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.split()
