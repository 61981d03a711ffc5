"""`encode`: print a config as a value of an environment variable."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from backends import wire
from backends.config import transport
from entrypoint.cli.config import load_config
from entrypoint.cli.parser import add_config_and_set
from entrypoint.cli.printing import print_text

if TYPE_CHECKING:
    from entrypoint.cli.config import Environ
    from entrypoint.cli.parser import Parser


def arguments(parser: Parser) -> None:
    """Add the verb's arguments to a parser."""
    add_config_and_set(parser)
    parser.add_argument(
        "--limit", metavar="BYTES", type=int, help="the most bytes that the platform takes (default: Linux's, 131053)"
    )


def main(args: argparse.Namespace, environ: Environ) -> int:
    """Print the config as a value that fits the limit."""
    config, _ = load_config(args, environ)
    limit = transport.ENV_LIMIT if args.limit is None else args.limit
    value, _ = transport.encode(wire.dumps(config).encode(), limit)
    print_text(value)
    return 0
