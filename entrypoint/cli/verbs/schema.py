"""`schema`: print the JSON Schema of a config."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from backends.config import schema
from entrypoint.cli.printing import print_json

if TYPE_CHECKING:
    from entrypoint.cli.config import Environ
    from entrypoint.cli.parser import Parser


def arguments(parser: Parser) -> None:
    """Add nothing: the verb takes no arguments."""


def main(args: argparse.Namespace, environ: Environ) -> int:
    """Print the schema."""
    print_json(schema.schema())
    return 0
