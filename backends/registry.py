"""Which backend a config's ``{type, source, args}`` block means.

``source`` is a short name, registered in the entry-point group ``zen_runner.backends`` under the key
``<role>.<short name>``, or ``package.module:Class``. The second imports that module, which runs its code in this
process: a deliberate act of whoever wrote the config, and the reason to run only configs that you trust.

Nothing here imports a backend before one is asked for. The built-in names stand in ``BUILTIN``, because reading the
metadata of all installed packages costs five starts of Python; a test holds the table to ``pyproject.toml``.
"""

from __future__ import annotations

import sys

from backends.errors import ConfigError, Problem
from backends.text import did_you_mean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from backends.base import BaseBackend


GROUP = "zen_runner.backends"
BUILTIN = {
    "orchestrator.local": "backends.orchestrator.local:OrchestratorLocalBackend",
    "orchestrator.docker": "backends.orchestrator.docker:OrchestratorDockerBackend",
    "orchestrator.beam": "backends.orchestrator.beam:OrchestratorBeamBackend",
    "orchestrator.batch": "backends.orchestrator.batch:OrchestratorBatchBackend",
    "orchestrator.kubeflow": "backends.orchestrator.kubeflow:OrchestratorKubeFlowBackend",
    "processing.direct": "backends.processing.direct:ProcessingDirectBackend",
    "processing.spark": "backends.processing.spark:ProcessingSparkBackend",
    "training.local": "backends.training.local:TrainingLocalBackend",
}
_ROLE_BASES = {
    "orchestrator": "OrchestratorBaseBackend",
    "processing": "ProcessingBaseBackend",
    "training": "TrainingBaseBackend",
}
ROLES = tuple(_ROLE_BASES)


def _plugins() -> dict[str, str]:
    """Return what installed packages registered, without the built-in names, which nobody can take over."""
    from importlib.metadata import entry_points

    return {entry.name: entry.value for entry in entry_points(group=GROUP) if entry.name not in BUILTIN}


def names(role: str) -> list[str]:
    """Return all short names of a role, sorted, from every installed package's metadata; ``find`` is quicker for one.

    Args:
        role: ``orchestrator``, ``processing`` or ``training``.
    """
    prefix = f"{role}."
    return sorted(key[len(prefix) :] for key in {**_plugins(), **BUILTIN} if key.startswith(prefix))


def find(role: str, name: str) -> str | None:
    """Return the ``package.module:Class`` behind a short name, or None; it imports no backend.

    Args:
        role: ``orchestrator``, ``processing`` or ``training``.
        name: the short name, such as ``local``.
    """
    key = f"{role}.{name}"
    return BUILTIN.get(key) or _plugins().get(key)


def source_of(cls: type[BaseBackend]) -> str:
    """Return the ``source`` of a class: its registered short name, else ``package.module:Class``.

    Raises:
        ConfigError: another process could not import the class: it is defined in a function or in ``__main__``.
    """
    target = f"{cls.__module__}:{cls.__qualname__}"
    prefix = f"{cls.BACKEND_TYPE}."
    for table in (BUILTIN, {} if cls.__module__.startswith("backends.") else _plugins()):
        for key, value in table.items():
            if value == target and key.startswith(prefix):
                return key[len(prefix) :]
    if cls.__module__ == "__main__" or "<" in target:
        raise ConfigError(f"no config can name the backend class {target}: define it at the top level of a module")
    return target


def class_of(role: str, source: str) -> type[BaseBackend]:
    """Return the backend class that a role and a ``source`` name, importing its module.

    Args:
        role: ``orchestrator``, ``processing`` or ``training``.
        source: a short name or ``package.module:Class``.

    Raises:
        ConfigError: no such name, the module can't be imported, or what it names is no usable backend of this role.
    """
    if role not in _ROLE_BASES:
        raise _error("type", f"no backend type {role!r}{did_you_mean(role, ROLES)}; the types are {', '.join(ROLES)}")
    target = source if ":" in source else find(role, source)
    if target is None:
        raise _error("source", _unknown(role, source))
    module_name, _, qualname = target.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *qualname.split("."))):
        raise _error("source", f"{source!r} is neither a short name nor package.module:Class")
    found: Any = _module(source, module_name)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    base = getattr(_module(source, "backends.base"), _ROLE_BASES[role])
    if not (isinstance(found, type) and issubclass(found, base)):
        what = f"module {module_name!r} has no {qualname!r}" if found is None else f"{target} is no {base.__name__}"
        raise _error("source", f"{what}; a backend of type {role} is a subclass of backends.base.{base.__name__}")
    if missing := sorted(getattr(found, "__abstractmethods__", ())):
        raise _error("source", f"{target} can't be used: it does not define {', '.join(missing)}")
    return found


def load(block: Mapping[str, Any], role: str | None = None) -> BaseBackend:
    """Return the backend that a config's block describes.

    Args:
        block: ``{"type", "source", "args"}``; ``args`` may be left out, and ``type`` too where ``role`` is given.
        role: the only type that is right here, or None for any.

    Raises:
        ConfigError: the block, its source or its arguments are wrong; the problems' paths start inside the block.
    """
    if not isinstance(block, dict) or not all(isinstance(key, str) for key in block):
        raise ConfigError("a backend is a mapping of type, source and args")
    known = ("type", "source", "args")
    if unknown := [key for key in block if key not in known]:
        raise ConfigError([Problem("", key, f"unknown key{did_you_mean(key, known)}") for key in unknown])
    kind, source, args = block.get("type", role), block.get("source"), block.get("args", {})
    for key, value, wanted in (("type", kind, str), ("source", source, str), ("args", args, dict)):
        if not isinstance(value, wanted):
            raise _error(key, f"expected a {'mapping' if wanted is dict else 'string'}, got {value!r}")
    if role is not None and kind != role:
        raise _error("type", f"a backend of type {role} is needed here, not {kind}")
    return class_of(kind, source)(**args)  # type: ignore[arg-type]


def _module(source: str, name: str) -> Any:
    if name in sys.modules:
        return sys.modules[name]
    from importlib import import_module

    try:
        return import_module(name)
    except Exception as error:  # importing somebody's module can raise anything
        why = f"{type(error).__name__}: {error}"
        raise _error("source", f"{source!r} needs module {name!r}, which can't be imported here: {why}") from error


def _unknown(role: str, source: str) -> str:
    known = names(role)
    for other in ROLES:
        if other != role and find(other, source):
            return f"{source!r} is a backend of type {other}, not {role}"
    return f"no {role} backend {source!r}{did_you_mean(source, known)}; registered: {', '.join(known) or 'none'}"


def _error(path: str, message: str) -> ConfigError:
    return ConfigError([Problem("", path, message)])
