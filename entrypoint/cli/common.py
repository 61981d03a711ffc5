"""What several verbs do: load a config, print, find steps, listen for a stop."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from backends import errors
from entrypoint.cli.parser import PROGRAM, Config, Environ


def load_config(args: argparse.Namespace, environ: Environ) -> tuple[Config, str]:
    from entrypoint.runtime import load

    source = load.find(args.config, environ)
    return load.load(source, overrides=getattr(args, "overrides", ()), environ=environ)


def print_text(text: str) -> None:
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def print_json(value: Any) -> None:
    import json

    print_text(json.dumps(value, indent=2, ensure_ascii=False))


def quote(words: Sequence[str]) -> str:
    import shlex

    return shlex.join(words)


def steps_in_order(config: Config) -> list[str]:
    from backends import graph

    steps = config["steps"]
    return graph.order({name: steps[name]["parents"] for name in graph.in_order(steps)})


def steps_called(config: Config, name: str) -> list[str]:
    """Return the step of this name; of a foreach step, all its members."""
    from backends import graph
    from backends.text import did_you_mean

    found = graph.members(config["steps"], name)
    if not found:
        known = graph.named(config["steps"])
        raise errors.UsageError(f"no step {name!r} in the config{did_you_mean(name, known)}; it has {', '.join(known)}")
    return found


def listen_for_stop() -> Callable[[], bool]:
    """Take over the stop signals, and return what tells whether one came; a second Ctrl-C interrupts at once."""
    import signal

    came: list[int] = []

    def on_stop(number: int, frame: object) -> None:
        if came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came.append(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's SIGHUP stays ignored
            signal.signal(number, on_stop)
    return lambda: bool(came)


def repeat(args: argparse.Namespace, run: str) -> list[str]:
    """Return the arguments that go on with a run."""
    words = []
    if args.config:
        words += ["--config", args.config]
    for override in args.overrides:
        words += ["--set", override]
    if args.backend:
        words += ["--backend", args.backend]
    return [*words, "--run-id", run]


def tell(error: errors.ZenRunnerError, environ: Environ) -> None:
    from entrypoint.cli.text import paint, wants_colour, write_fd

    colour = wants_colour(2, environ)
    head = f"{PROGRAM}: {paint('error', 'error', colour)}: "
    if isinstance(error, errors.ConfigError) and len(error.problems) > 1:
        text = f"{head}{len(error.problems)} problems in the config\n" + "".join(f"  {p}\n" for p in error.problems)
    else:
        text = f"{head}{error}\n"
    write_fd(2, text.encode("utf-8", "replace"))
