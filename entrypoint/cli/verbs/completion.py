"""`completion`: print a completion script for a shell."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from entrypoint.cli import build
from entrypoint.cli.common import print_text

if TYPE_CHECKING:
    from entrypoint.cli.parser import Environ, Parser


def arguments(parser: Parser) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "tcsh"), help="bash, zsh or tcsh")


def main(args: argparse.Namespace, environ: Environ) -> int:
    import shtab

    parser = build()
    stack: list[argparse.ArgumentParser] = [parser]
    while stack:
        for action in stack.pop()._actions:
            if isinstance(action, argparse._SubParsersAction):
                stack += action.choices.values()
            elif action.dest == "config":
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print_text(shtab.complete(parser, shell=args.shell))
    return 0
