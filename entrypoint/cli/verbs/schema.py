"""`schema`: print the JSON Schema of a config."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from entrypoint.cli.common import print_json

if TYPE_CHECKING:
    from entrypoint.cli.parser import Environ, Parser


def arguments(parser: Parser) -> None:
    """It takes none."""


def main(args: argparse.Namespace, environ: Environ) -> int:
    from backends.config import schema

    print_json(schema.schema())
    return 0
