"""`version`: print the version."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from backends import __version__
from entrypoint.cli.parser import PROGRAM

if TYPE_CHECKING:
    from entrypoint.cli.config import Environ
    from entrypoint.cli.parser import Parser


def arguments(parser: Parser) -> None:
    """Add nothing: the verb takes no arguments."""


def main(args: argparse.Namespace, environ: Environ) -> int:
    """Print the version, and Python's and the contract's."""
    python = ".".join(map(str, sys.version_info[:3]))
    sys.stdout.write(f"{PROGRAM} {__version__} (Python {python}, container contract 1)\n")
    return 0
