"""`render`: print what a backend would hand to its platform."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from entrypoint.cli.backends import chosen, documents, print_documents
from entrypoint.cli.common import load_config
from entrypoint.cli.parser import JSON, YAML, add_backend, add_config

if TYPE_CHECKING:
    from entrypoint.cli.parser import Environ, Parser


def arguments(parser: Parser) -> None:
    add_config(parser)
    add_backend(parser, "the config's `backend:`")
    parser.add_argument("--run-id", metavar="RUN", help="the run's id (default: something that stands for one)")
    parser.add_argument("-o", "--output", choices=(YAML, JSON), default=YAML, help="yaml, or json (default: yaml)")


def main(args: argparse.Namespace, environ: Environ) -> int:
    config, _ = load_config(args, environ)
    print_documents(documents(chosen(args, config), config, args.run_id), args.output)
    return 0
