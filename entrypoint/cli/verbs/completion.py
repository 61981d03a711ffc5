"""`completion`: print a completion script for a shell."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import shtab

from entrypoint.cli.command_line import full_parser
from entrypoint.cli.printing import print_text

if TYPE_CHECKING:
    from entrypoint.cli.config import Environ
    from entrypoint.cli.parser import Parser


def arguments(parser: Parser) -> None:
    """Add the verb's arguments to a parser."""
    parser.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "tcsh"), help="bash, zsh or tcsh")


def main(args: argparse.Namespace, environ: Environ) -> int:
    """Print the script."""
    parser = full_parser()
    parsers: list[argparse.ArgumentParser] = [parser]
    while parsers:
        for action in parsers.pop()._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
            elif action.dest == "config":
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print_text(shtab.complete(parser, shell=args.shell))
    return 0
