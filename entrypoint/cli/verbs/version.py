"""`version`: print the version."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from entrypoint.cli.common import print_text
from entrypoint.cli.parser import PROGRAM

if TYPE_CHECKING:
    from entrypoint.cli.parser import Environ, Parser


def arguments(parser: Parser) -> None:
    """It takes none."""


def main(args: argparse.Namespace, environ: Environ) -> int:
    from backends import __version__

    print_text(f"{PROGRAM} {__version__} (Python {'.'.join(map(str, sys.version_info[:3]))}, container contract 1)")
    return 0
