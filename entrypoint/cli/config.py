"""The config that a command line names, and the steps in it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from backends import errors, graph
from backends.text import did_you_mean
from entrypoint.runtime import load

Config = dict[str, Any]
Environ = Mapping[str, str]


def load_config(args: argparse.Namespace, environ: Environ, *, in_full: bool = False) -> tuple[Config, str]:
    """Return the resolved config that a command line means, and its sha256.

    Args:
        args: the command line; ``config`` and ``overrides`` are read.
        environ: the environment variables, which may name the config or hold it.
        in_full: check also one that says it is resolved as any other is checked.

    Raises:
        ConfigError: there is no config, or it is wrong.
    """
    source = load.find(args.config, environ)
    return load.load(source, overrides=getattr(args, "overrides", ()), environ=environ, in_full=in_full)


def steps_in_order(config: Mapping[str, Any]) -> list[str]:
    """Return the names of all steps, each after its parents."""
    steps = config["steps"]
    return graph.order({name: steps[name]["parents"] for name in graph.in_order(steps)})


def steps_called(config: Config, name: str) -> list[str]:
    """Return the step of this name; of a foreach step, all its members.

    Raises:
        UsageError: there is no such step.
    """
    members: list[str] = graph.members(config["steps"], name)
    if not members:
        names = graph.named(config["steps"])
        raise errors.UsageError(f"no step {name!r} in the config{did_you_mean(name, names)}; it has {', '.join(names)}")
    return members
