"""`validate`: check a config."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from backends import errors
from entrypoint.cli.common import load_config, print_json, print_text
from entrypoint.cli.parser import JSON, add_config, add_output

if TYPE_CHECKING:
    from entrypoint.cli.parser import Environ, Parser


def arguments(parser: Parser) -> None:
    add_config(parser)
    add_output(parser, "one line a problem", "an object with `valid` and `problems`")


def main(args: argparse.Namespace, environ: Environ) -> int:
    try:
        config, sha = load_config(args, environ)
    except errors.ConfigError as error:
        if args.output == JSON:
            found = [{"where": p.where, "path": p.path, "message": p.message} for p in error.problems]
            print_json({"valid": False, "problems": found})
            return error.exit_code
        raise
    if args.output == JSON:
        print_json({"valid": True, "problems": [], "name": config["name"], "sha256": sha})
    else:
        count = len(config["steps"])
        print_text(f"{config['name']}: valid, {count} {'step' if count == 1 else 'steps'}, sha256 {sha}")
    return 0
