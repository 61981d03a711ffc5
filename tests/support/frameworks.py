"""The Python that has the frameworks, Beam and Spark, which neither the test environment nor the user's bare Python has.

``make`` builds it in ``.venv-engines`` from ``tests/engines.txt``; ``$ZEN_RUNNER_TEST_ENGINES_PYTHON`` names another one.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess

from tests.support.ci import skip_or_fail
from tests.support.running import ROOT


@functools.cache
def _find(modules: tuple[str, ...]) -> tuple[str, str]:
    """Return the interpreter, and why it can't be used; one of both is empty."""
    python = os.environ.get("ZEN_RUNNER_TEST_ENGINES_PYTHON") or str(ROOT / ".venv-engines" / "bin" / "python")
    if not os.access(python, os.X_OK):
        return "", f"no Python with {', '.join(modules)}: {python} is not there; `make .venv-engines/.made` builds it"
    home = os.environ.get("JAVA_HOME")
    if "pyspark" in modules and shutil.which(f"{home}/bin/java" if home else "java") is None:
        return "", "no JVM for Spark: install a JRE, 17 or later"
    code = f"import importlib.util\nassert all(map(importlib.util.find_spec, {modules!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, check=False)
    return (python, "") if done.returncode == 0 else ("", f"{python} has not all of {', '.join(modules)}")


def python_with(*modules: str) -> str:
    """Return the path of a Python that has these modules; the test that asks skips where there is none, and fails with CI=true.

    Args:
        modules: the names of top-level modules, such as ``apache_beam``.
    """
    python, problem = _find(modules)
    if problem:
        skip_or_fail(problem)
    return python
