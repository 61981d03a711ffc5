"""`validate`: check a config."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from backends import errors
from entrypoint.cli.config import load_config
from entrypoint.cli.parser import JSON, add_config_and_set, add_output
from entrypoint.cli.printing import print_json, print_text

if TYPE_CHECKING:
    from entrypoint.cli.config import Environ
    from entrypoint.cli.parser import Parser


def arguments(parser: Parser) -> None:
    """Add the verb's arguments to a parser."""
    add_config_and_set(parser)
    add_output(parser, "one line per problem", "an object with `valid` and `problems`")


def main(args: argparse.Namespace, environ: Environ) -> int:
    """Print that a config is valid, or every problem of it."""
    try:
        config, sha = load_config(args, environ, in_full=True)
    except errors.ConfigError as error:
        if args.output == JSON:
            problems = [{"where": p.where, "path": p.path, "message": p.message} for p in error.problems]
            print_json({"valid": False, "problems": problems})
            return error.exit_code
        raise
    if args.output == JSON:
        print_json({"valid": True, "problems": [], "name": config["name"], "sha256": sha})
    else:
        count = len(config["steps"])
        print_text(f"{config['name']}: valid, {count} {'step' if count == 1 else 'steps'}, sha256 {sha}")
    return 0
