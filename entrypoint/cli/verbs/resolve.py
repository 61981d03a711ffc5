"""`resolve`: print a config with everything filled in."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from backends import wire
from entrypoint.cli.config import load_config
from entrypoint.cli.parser import JSON, add_config_and_set, add_output
from entrypoint.cli.printing import print_json, print_text

if TYPE_CHECKING:
    from entrypoint.cli.config import Environ
    from entrypoint.cli.parser import Parser


def arguments(parser: Parser) -> None:
    """Add the verb's arguments to a parser."""
    add_config_and_set(parser)
    add_output(parser, "indented for people", "canonical, the very bytes that the sha256 is of")
    parser.add_argument("--sha256", action="store_true", help="print the sha256 of the canonical form only")


def main(args: argparse.Namespace, environ: Environ) -> int:
    """Print the resolved config, or its sha256."""
    config, sha = load_config(args, environ)
    if args.sha256:
        print_text(sha)
    elif args.output == JSON:
        sys.stdout.write(wire.dumps(config))
    else:
        print_json(config)
    return 0
