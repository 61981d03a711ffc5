"""The settings that a step takes from the top where it has none of its own: retry, resources, timeout, grace period and cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import UNSET

from backends import outcome
from backends.config import quantities
from backends.config.findings import Findings
from backends.config.paths import Path
from backends.config.schema import Config, Resources, Retry, Step


def defaults() -> dict[str, Any]:
    """Return the settings of a config that has none."""
    return {
        "retry": {"limit": 2, "on": list(outcome.RETRIED_BY_DEFAULT), "backoff": 1.0, "memory_factor": 1.0},
        "resources": {"cpu": None, "memory": None, "gpu": 0, "gpu_memory": None, "cuda": None},
        "timeout": None,
        "grace_period": 30.0,
        "cache": False,
    }


def read(part: Config | Step, path: Path, top: dict[str, Any], findings: Findings, *, is_resolved: bool) -> dict[str, Any]:
    """Return the settings of a step, or of the top.

    Args:
        part: which has them.
        path: of it.
        top: what holds where it has none.
        is_resolved: whether the config was resolved before, so that what came from the top stands in the steps.
    """
    retry = _retry(part.retry, (*path, "retry"), top["retry"], findings)
    resources = _resources(part.resources, (*path, "resources"), top["resources"], findings)
    if path and not is_resolved and isinstance(part.resources, Resources):
        _check_gpu(part.resources, resources, (*path, "resources"), findings)
    return {
        "retry": retry,
        "resources": resources,
        "timeout": _read(_timeout, part.timeout, (*path, "timeout"), top["timeout"], findings),
        "grace_period": _read(quantities.duration, part.grace_period, (*path, "grace_period"), top["grace_period"], findings),
        "cache": top["cache"] if part.cache is UNSET else part.cache,
    }


def _read(reader: Callable[[Any], Any], value: Any, path: Path, fallback: Any, findings: Findings) -> Any:
    """Return what ``reader`` makes of a value, or report why it can't and return the fallback."""
    if value is UNSET or value is None:
        return fallback if value is UNSET else None
    try:
        return reader(value)
    except ValueError as error:
        findings.report(path, str(error))
        return fallback


def _retry(retry: Any, path: Path, top: dict[str, Any], findings: Findings) -> dict[str, Any]:
    if not isinstance(retry, Retry):
        return top
    classes = top["on"]
    if retry.on is not UNSET:
        for index, name in enumerate(retry.on):
            if name not in outcome.RETRIABLE:
                _report_not_retried(name, (*path, "on", index), findings)
        classes = [name for name in outcome.RETRIABLE if name in retry.on]

    def read(key: str, reader: Callable[[Any], Any]) -> Any:
        return _read(reader, getattr(retry, key), (*path, key), top[key], findings)

    return {
        "limit": read("limit", _between("limit", 0, 100)),
        "on": classes,
        "backoff": read("backoff", quantities.duration),
        "memory_factor": float(read("memory_factor", _between("memory_factor", 1, 16))),
    }


def _report_not_retried(name: str, path: Path, findings: Findings) -> None:
    if any(row.name == name for row in outcome.TABLE):
        why = "there is nothing to retry" if name == outcome.SUCCESS else "it would end the same way again"
        classes = ", ".join(outcome.RETRIABLE)
        findings.report(path, f"class {name!r} is never retried, {why}; the classes are {classes}")
    else:
        findings.report(path, f"no class {name[:80]!r}{findings.hint(name, outcome.RETRIABLE, 'the classes are')}")


def _resources(resources: Any, path: Path, top: dict[str, Any], findings: Findings) -> dict[str, Any]:
    if not isinstance(resources, Resources):
        return top
    return {key: _read(reader, getattr(resources, key), (*path, key), top[key], findings) for key, reader in _RESOURCES.items()}


def _check_gpu(asked: Resources, resources: dict[str, Any], path: Path, findings: Findings) -> None:
    """Report what a step says of GPUs and asks for none; at the top it is a default for the steps that do."""
    if resources["gpu"] or findings.is_dropped(*path, "gpu"):
        return
    for key in ("gpu_memory", "cuda"):
        if getattr(asked, key) is not UNSET and resources[key] is not None:
            findings.report((*path, key), "this says what a GPU must have, and the step asks for none; add gpu: 1")


def _timeout(value: Any) -> float:
    seconds = quantities.duration(value)
    if seconds == 0:
        raise ValueError("a timeout of 0 would end every step at once; write null for no timeout")
    return seconds


def _between(name: str, least: int, most: int) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not least <= value <= most:
            raise ValueError(f"{value} is out of range; {name} is from {least} to {most}")
        return value

    return read


_RESOURCES: dict[str, Callable[[Any], Any]] = {
    "cpu": quantities.cpu,
    "memory": quantities.memory,
    "gpu": _between("gpu", 0, 1024),
    "gpu_memory": quantities.memory,
    "cuda": quantities.cuda,
}
