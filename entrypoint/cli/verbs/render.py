"""`render`: print what a backend would hand to its platform."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from entrypoint.cli.backends import backend_for_submit
from entrypoint.cli.config import load_config
from entrypoint.cli.documents import print_documents, render_documents
from entrypoint.cli.parser import JSON, YAML, add_backend, add_config_and_set

if TYPE_CHECKING:
    from entrypoint.cli.config import Environ
    from entrypoint.cli.parser import Parser


def arguments(parser: Parser) -> None:
    """Add the verb's arguments to a parser."""
    add_config_and_set(parser)
    add_backend(parser, "the config's `backend:`")
    parser.add_argument("--run-id", metavar="RUN", help="the run's id (default: something that stands for one)")
    parser.add_argument("-o", "--output", choices=(YAML, JSON), default=YAML, help="yaml, or json (default: yaml)")


def main(args: argparse.Namespace, environ: Environ) -> int:
    """Print the documents of a config."""
    config, _ = load_config(args, environ)
    print_documents(render_documents(backend_for_submit(args, config), config, args.run_id), args.output)
    return 0
