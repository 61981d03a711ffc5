"""`encode`: print a config as a value of an environment variable."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from entrypoint.cli.common import load_config, print_text
from entrypoint.cli.parser import add_config

if TYPE_CHECKING:
    from entrypoint.cli.parser import Environ, Parser


def arguments(parser: Parser) -> None:
    add_config(parser)
    parser.add_argument(
        "--limit", metavar="BYTES", type=int, help="the most bytes that the platform takes (default: Linux's, 131053)"
    )


def main(args: argparse.Namespace, environ: Environ) -> int:
    from backends import wire
    from backends.config import transport

    config, _ = load_config(args, environ)
    limit = transport.ENV_LIMIT if args.limit is None else args.limit
    value, _ = transport.encode(wire.dumps(config).encode(), limit)
    print_text(value)
    return 0
