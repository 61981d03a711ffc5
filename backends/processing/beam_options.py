"""Beam's pipeline options, from a config's mapping to the flags that Beam reads."""

from __future__ import annotations

from backends import wire
from backends.errors import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any


def problems_of(options: Mapping[str, Any] | None, own: Iterable[str] = ()) -> list[Problem]:
    """Return what is wrong with the names of options.

    Args:
        options: the ``options`` argument of a backend.
        own: names that the backend has arguments for.
    """
    problems = []
    for name in options or {}:
        if name in own:
            problems.append(Problem("", f"args.options.{name}", f"write it beside `options`: args.{name}"))
        elif not name.isidentifier():
            write = name.lstrip("-").replace("-", "_")
            hint = f"; write {write}" if write.isidentifier() else ""
            problems.append(Problem("", f"args.options.{name}", f"{name[:80]!r} is no option's name{hint}"))
    return problems


def as_flags(options: Mapping[str, Any]) -> list[str]:
    """Return options as a command line, by the alphabet.

    True gives the flag alone, a list the flag once for each item, null and false nothing.

    Args:
        options: values by name.

    Source: Beam's PipelineOptions, which are argparse's, with ``--no_NAME`` for what is on by default.
    """
    flags: list[str] = []
    for name, value in sorted(options.items()):
        if value is True:
            flags.append(f"--{name}")
        elif value is None or value is False:
            continue
        else:
            flags += [f"--{name}={item if isinstance(item, str) else wire.dumps(item)}" for item in _each(value)]
    return flags


def _each(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
