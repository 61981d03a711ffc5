"""`doctor`: check what this machine or container can do."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from backends import errors, outcome
from entrypoint.cli import doctor
from entrypoint.cli.config import load_config
from entrypoint.cli.parser import JSON, add_config, add_output
from entrypoint.cli.printing import print_json, print_text
from entrypoint.cli.terminal import RETRY, SKIPPED, escaped, paint, wants_colour

if TYPE_CHECKING:
    from entrypoint.cli.config import Environ
    from entrypoint.cli.parser import Parser


def arguments(parser: Parser) -> None:
    """Add the verb's arguments to a parser."""
    add_config(parser)
    parser.add_argument("--store", metavar="URL", help="check this store (default: the config's)")
    add_output(parser, "one line per check", "an object with `checks`")


def main(args: argparse.Namespace, environ: Environ) -> int:
    """Print what each check found; the exit status is that of a placement failure if one failed."""
    config, problem = None, None
    try:
        config, _ = load_config(args, environ)
    except errors.ZenRunnerError as error:
        named = args.config or environ.get("ZEN_RUNNER_CONFIG") or environ.get("ZEN_RUNNER_CONFIG_FILE")
        problem = error if named else None
    store = args.store or (config["store"] if config else None)
    findings = doctor.examine(doctor.Place(environ, config, problem, store))
    failed = any(finding.state == doctor.FAIL for finding in findings)
    if args.output == JSON:
        print_json({"ok": not failed, "checks": [finding._asdict() for finding in findings]})
    else:
        colour = wants_colour(1, environ)
        shade = {doctor.OK: outcome.SUCCESS, doctor.WARN: RETRY, doctor.FAIL: "fail"}
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            state = paint(f"{finding.state:<4}", shade.get(finding.state, SKIPPED), colour)
            print_text(f"{state}  {escaped(f'{finding.name:<{width}}  {finding.detail}')}", is_painted=True)
            if finding.fix:
                print_text(f"{'':<{width + 8}}→ {finding.fix}")
    return outcome.code_of(outcome.PLACEMENT) if failed else 0
