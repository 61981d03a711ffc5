"""Whose doing an exception is: the class and the message of the attempt that it ends."""

from __future__ import annotations

import errno
import os

from backends import outcome
from backends.errors import ZenRunnerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

CLAIM, PREPARE, PUBLISH, STORE = "claim the step", "prepare the step", "publish the step's outputs", "store the record"
# What a step can bring about in its own directory; what the disk or the network does is not among it.
_OF_THE_STEP = {
    getattr(errno, name)
    for name in ("ENOENT", "ENOTDIR", "EISDIR", "ELOOP", "EINVAL", "ENXIO", "ENAMETOOLONG", "EACCES", "EPERM", "ENOTEMPTY")
}
# Libraries' exceptions, by module, that tell of a network or a server and are no OSError.
_NETWORK = ("http.client", "urllib.error", "ssl", "socket", "pyo3_runtime", "obstore.exceptions", "obstore._obstore")


def blame(error: BaseException, phase: str, config: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[str, str, int]:
    """Return the class, the message and the exit status that an exception means.

    Args:
        error: anything at all.
        phase: what was tried, as an infinitive.
        config: the resolved config, which may not be one.
        environ: with ``ZEN_RUNNER_DEBUG`` a traceback of what nobody foresaw goes to stderr.
    """
    if isinstance(error, ZenRunnerError):
        return error.outcome_class, str(error), error.exit_code
    kind, message = _kind(error, phase, config)
    if environ.get("ZEN_RUNNER_DEBUG"):
        import traceback

        traceback.print_exception(error)
    return kind, message, outcome.code_of(kind)


def _kind(error: BaseException, phase: str, config: Mapping[str, Any]) -> tuple[str, str]:
    if isinstance(error, OSError):
        of_the_step = phase == PUBLISH and error.errno in _OF_THE_STEP
        return outcome.USER if of_the_step else outcome.INFRA, f"could not {phase}: {error}"
    name = type(error).__name__
    if isinstance(error, MemoryError) or type(error).__module__ in _NETWORK:
        return outcome.INFRA, f"could not {phase}: {name}: {error}"
    problem = _config_problem(config)
    if problem is not None:
        return outcome.CONFIG, problem
    return outcome.USER, f"zen-runner itself failed, {name}: {error}; ZEN_RUNNER_DEBUG=1 shows where"


def _config_problem(config: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a config that says it is resolved, and is not: the likeliest reason of a surprise."""
    from backends import wire
    from backends.config import document, resolve

    try:
        doc = document.parse(wire.dumps(config).encode(), "the resolved config")
        resolve.load(doc, base=os.getcwd(), name_default="pipeline", environ={})
    except ZenRunnerError as problem:
        return str(problem)
    except Exception:  # noqa: BLE001 - the first failure is the one to tell
        return None
    return None
