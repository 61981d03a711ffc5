"""The argument parser, and the arguments that several verbs have."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from backends import errors

PROGRAM = "zen-runner"
TEXT, JSON, YAML = "text", "json", "yaml"


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
        """Raise what argparse would print.

        Raises:
            UsageError: always.
        """
        raise errors.UsageError(f"{message}; see: {self.prog} --help")

    def flags(self) -> list[str]:
        """Return every flag that it takes, short and long."""
        return list(self._option_string_actions)


def add_config(parser: Parser) -> None:
    """Add ``--config``."""
    parser.add_argument(
        "-c",
        "--config",
        metavar="PATH",
        help="the config: a file, a URL or - for stdin (default: $ZEN_RUNNER_CONFIG, then $ZEN_RUNNER_CONFIG_FILE, "
        "then /etc/zen-runner/config.yaml)",
    )


def add_config_and_set(parser: Parser) -> None:
    """Add ``--config``, and ``--set`` to change values of it."""
    add_config(parser)
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        dest="overrides",
        action="append",
        default=[],
        help="override one value of the config by its path; may be given again",
    )


def add_backend(parser: Parser, default: str) -> None:
    """Add ``--backend``.

    Args:
        parser: the verb's parser.
        default: what it is when not given, for the help.
    """
    parser.add_argument(
        "--backend",
        metavar="NAME",
        help=f"the orchestrator: a name of the config's `backends:`, or a registered one (default: {default})",
    )


def add_output(parser: Parser, text: str, structured: str) -> None:
    """Add ``--output``, ``text`` or ``json``.

    Args:
        parser: the verb's parser.
        text: what the text is, for the help.
        structured: what the JSON is, for the help.
    """
    parser.add_argument(
        "-o", "--output", choices=(TEXT, JSON), default=TEXT, help=f"text: {text}; json: {structured} (default: text)"
    )


def add_run(parser: Parser) -> None:
    """Add what names a run in a store: its id, the config's newest run if it is left out, and ``--config`` or ``--store``."""
    _add_store(parser)
    parser.add_argument("run_id", metavar="RUN", nargs="?", help="the run's id (default: the config's newest run)")


def add_required_run(parser: Parser) -> None:
    """Add what names a run in a store, where the newest is no safe guess."""
    _add_store(parser)
    parser.add_argument("run_id", metavar="RUN", help="the run's id")


def _add_store(parser: Parser) -> None:
    add_config(parser)
    parser.add_argument("--store", metavar="URL", help="the store that holds the run, where no config is at hand")
