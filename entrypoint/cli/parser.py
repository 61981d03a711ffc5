"""What all verbs' command lines share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from backends import errors

PROGRAM = "zen-runner"
TEXT, JSON, YAML = "text", "json", "yaml"

Config = dict[str, Any]
Environ = Mapping[str, str]


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)

    def format_help(self) -> str:
        self._action_max_length += 2  # argparse forgets that the verbs are indented
        return super().format_help()


class Parser(argparse.ArgumentParser):
    """argparse with this project's manners: errors are raised, abbreviations are not guessed."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise errors.UsageError(f"{message}; see: {self.prog} --help")


class Verb(NamedTuple):
    """One verb of the command line.

    Args:
        purpose: one line for the list of verbs.
        examples: pairs of a command and what it does.
        notes: more to know, shown below the arguments.
    """

    purpose: str
    examples: tuple[tuple[str, str], ...]
    notes: str = ""


def add_config(parser: Parser, overrides: bool = True) -> None:
    parser.add_argument(
        "-c",
        "--config",
        metavar="PATH",
        help="the config: a file, a URL or - for stdin (default: $ZEN_RUNNER_CONFIG, then $ZEN_RUNNER_CONFIG_FILE, "
        "then /etc/zen-runner/config.yaml)",
    )
    if overrides:
        parser.add_argument(
            "--set",
            metavar="KEY=VALUE",
            dest="overrides",
            action="append",
            default=[],
            help="override one value of the config by its path; may be given again",
        )


def add_backend(parser: Parser, default: str) -> None:
    parser.add_argument(
        "--backend",
        metavar="NAME",
        help=f"the orchestrator: a name of the config's `backends:`, or a registered one (default: {default})",
    )


def add_output(parser: Parser, text: str, structured: str) -> None:
    parser.add_argument(
        "-o", "--output", choices=(TEXT, JSON), default=TEXT, help=f"text: {text}; json: {structured} (default: text)"
    )


def add_run(parser: Parser, required: bool = False) -> None:
    add_config(parser, overrides=False)
    parser.add_argument("--store", metavar="URL", help="the store that holds the run, where no config is at hand")
    if required:
        parser.add_argument("run_id", metavar="RUN", help="the run's id")
    else:
        parser.add_argument("run_id", metavar="RUN", nargs="?", help="the run's id (default: the config's newest run)")


def examples(pairs: Sequence[tuple[str, str]]) -> str:
    lines = ["examples:"]
    for command, does in pairs:
        if does:
            lines.append(f"  # {does}")
        lines.append(f"  {command}")
    return "\n".join(lines)


def sentence(verb: Verb) -> str:
    return verb.purpose[0].upper() + verb.purpose[1:] + "."


def notes(verb: Verb) -> str:
    return examples(verb.examples) + (f"\n\n{verb.notes}" if verb.notes else "")
