"""Which backend a config's ``{type, source, args}`` block means.

``source`` is a short name, registered in the entry-point group ``zen_runner.backends`` under the key
``<role>.<short name>``, or ``package.module:Class``. The second imports that module, which runs its code in this
process: a deliberate act of whoever wrote the config, and the reason to run only configs that you trust.

A built-in backend is the module or package of its short name in the folder of its role, ``backends/<role>/<short name>``; it has
one class of that role. So its name is known without reading the metadata of all installed packages, which costs five starts
of Python; a test holds the folders to the entry points in ``pyproject.toml``. Nothing here imports a backend before it is
asked for.
"""

from __future__ import annotations

import os
import sys

from backends.errors import ConfigError, Problem
from backends.text import did_you_mean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


GROUP = "zen_runner.backends"
ROLES = ("orchestrator", "processing", "training")


# What lies in a role's folder and is no backend: what several of its backends share.
_SHARED = frozenset(("beam_options", "driven", "remote"))


def built_in(role: str) -> list[str]:
    """Return the short names of the backends of a role that come with this package, sorted.

    Args:
        role: ``orchestrator``, ``processing`` or ``training``.
    """
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), role)
    names = {entry.removesuffix(".py") for entry in os.listdir(folder) if entry[:1] != "_"}
    return sorted(name for name in names - _SHARED if name.isidentifier())


def is_built_in(role: str, name: str) -> bool:
    """Return whether a short name of a role is one of this package's own."""
    return role in ROLES and name in built_in(role)


def names(role: str) -> list[str]:
    """Return all short names of a role, sorted, from every installed package's metadata; ``is_built_in`` is quicker for one.

    Args:
        role: ``orchestrator``, ``processing`` or ``training``.
    """
    return sorted({*built_in(role), *_plugins(role)})


def is_registered(role: str, name: str) -> bool:
    """Return whether a short name of a role is known; it imports no backend.

    Args:
        role: ``orchestrator``, ``processing`` or ``training``.
        name: the short name, such as ``local``.
    """
    return is_built_in(role, name) or name in _plugins(role)


def _plugins(role: str) -> dict[str, str]:
    """Return what installed packages registered for a role, without the built-in names, which nobody can take over."""
    from importlib.metadata import entry_points

    prefix, own = f"{role}.", set(built_in(role))
    targets = {
        entry.name.removeprefix(prefix): entry.value for entry in entry_points(group=GROUP) if entry.name.startswith(prefix)
    }
    return {name: target for name, target in targets.items() if name not in own}


def source_of(cls: type, role: str) -> str:
    """Return the ``source`` of a class: its registered short name, else ``package.module:Class``.

    Args:
        cls: a backend's class.
        role: ``orchestrator``, ``processing`` or ``training``.

    Raises:
        ConfigError: another process could not import the class: it is defined in a function or in ``__main__``.
    """
    package, _, name = cls.__module__.rpartition(".")
    if package == f"backends.{role}" and is_built_in(role, name):
        return name
    target = f"{cls.__module__}:{cls.__qualname__}"
    for name, registered in _plugins(role).items():
        if registered == target:
            return name
    if cls.__module__ == "__main__" or "<" in target:
        raise ConfigError(f"no config can name the backend class {target}: define it at the top level of a module")
    return target


def target_of(role: str, source: str) -> tuple[str, object]:
    """Return the ``package.module:Class`` that a role and a ``source`` mean, and what is there; None if nothing is.

    Args:
        role: ``orchestrator``, ``processing`` or ``training``.
        source: a short name or ``package.module:Class``.

    Raises:
        ConfigError: no such name, or the module can't be imported.
    """
    if role not in ROLES:
        raise wrong("type", f"no backend type {role!r}{did_you_mean(role, ROLES)}; the types are {', '.join(ROLES)}")
    if is_built_in(role, source):
        return _built_in_class(role, source)
    target = source if ":" in source else _plugins(role).get(source)
    if target is None:
        raise wrong("source", _unknown(role, source))
    module_name, _, qualname = target.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *qualname.split("."))):
        raise wrong("source", f"{source!r} is neither a short name nor package.module:Class")
    thing: Any = _module(source, module_name)
    for part in qualname.split("."):
        thing = getattr(thing, part, None)
    return target, thing


def _built_in_class(role: str, name: str) -> tuple[str, object]:
    module = _module(name, f"backends.{role}.{name}")
    classes = [
        member
        for member in vars(module).values()
        if isinstance(member, type) and member.__module__ == module.__name__ and getattr(member, "BACKEND_TYPE", None) == role
    ]
    [cls] = classes
    return f"{module.__name__}:{cls.__qualname__}", cls


def _module(source: str, name: str) -> Any:
    if name in sys.modules:
        return sys.modules[name]
    from importlib import import_module

    try:
        return import_module(name)
    except Exception as error:  # importing somebody's module can raise anything
        why = f"{type(error).__name__}: {error}"
        raise wrong("source", f"{source!r} needs module {name!r}, which can't be imported here: {why}") from error


def _unknown(role: str, source: str) -> str:
    known = names(role)
    for other in ROLES:
        if other != role and is_registered(other, source):
            return f"{source!r} is a backend of type {other}, not {role}"
    return f"no {role} backend {source!r}{did_you_mean(source, known)}; registered: {', '.join(known) or 'none'}"


def wrong(path: str, message: str) -> ConfigError:
    """Return the error of one place inside a backend's block."""
    return ConfigError([Problem("", path, message)])
