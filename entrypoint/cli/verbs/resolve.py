"""`resolve`: print a config with everything filled in."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from entrypoint.cli.common import load_config, print_json, print_text
from entrypoint.cli.parser import JSON, add_config, add_output

if TYPE_CHECKING:
    from entrypoint.cli.parser import Environ, Parser


def arguments(parser: Parser) -> None:
    add_config(parser)
    add_output(parser, "indented for people", "canonical, the very bytes that the sha256 is of")
    parser.add_argument("--sha256", action="store_true", help="print the sha256 of the canonical form only")


def main(args: argparse.Namespace, environ: Environ) -> int:
    config, sha = load_config(args, environ)
    if args.sha256:
        print_text(sha)
    elif args.output == JSON:
        from backends import wire

        sys.stdout.write(wire.dumps(config))
    else:
        print_json(config)
    return 0
