"""Parsing the command line: verbs, arguments, help, and hints for what is mistyped."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence

from backends import errors, outcome
from backends.text import did_you_mean
from entrypoint.cli.parser import PROGRAM, Parser
from entrypoint.cli.verbs import VERBS, Verb, module_of


def parser_of(name: str) -> Parser:
    """Return the parser of one verb's arguments."""
    verb = VERBS[name]
    parser = Parser(prog=f"{PROGRAM} {name}", description=_sentence(verb), epilog=_notes(verb))
    module_of(name).arguments(parser)
    return parser


def full_parser() -> Parser:
    """Return the parser of the whole command line, for which every verb's module is loaded."""
    parser, parsers = _overview()
    for name, verb_parser in parsers.items():
        module_of(name).arguments(verb_parser)
    return parser


def split_verb(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Return the verb and the words after it; without a verb it is ``run``."""
    words = list(argv)
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    if words in (["--version"], ["-V"]):
        words = ["version"]
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        return "run", words
    return words[0], words[1:]


def parse(name: str, words: Sequence[str]) -> argparse.Namespace:
    """Return a verb's arguments.

    Args:
        name: the verb, or ``--help``.
        words: the words after it.

    Raises:
        UsageError: there is no such verb, or it does not take these words.
        SystemExit: help was asked for, and has been printed.
    """
    if name in ("-h", "--help"):
        _overview()[0].print_help()
        raise SystemExit(0)
    if name not in VERBS:
        hint = did_you_mean(name, VERBS)
        if not hint and _is_config(name):
            hint = f" (did you mean `{PROGRAM} --config {shlex.quote(name)}`?)"
        raise errors.UsageError(f"no verb {name!r}{hint}; the verbs are {', '.join(VERBS)}")
    parser = parser_of(name)
    args, rest = parser.parse_known_args(words)
    if rest:
        raise errors.UsageError(_why_unknown(parser, name, rest[0]))
    return args


def _overview() -> tuple[Parser, dict[str, Parser]]:
    """Return the parser of the whole command line, and in it those of the verbs, still without arguments."""
    parser = Parser(
        prog=PROGRAM,
        description="One container contract, every orchestrator: runs a pipeline, or one step of it.",
        epilog=_epilog(),
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", prog=PROGRAM)
    parsers = {
        name: verbs.add_parser(name, help=verb.purpose, description=_sentence(verb), epilog=_notes(verb), add_help=True)
        for name, verb in VERBS.items()
    }
    return parser, parsers


def _epilog() -> str:
    rows = "\n".join(f"  {row.code:>3}  {row.name:<12}{row.meaning}" for row in outcome.TABLE)
    return (
        _examples(VERBS["run"].examples[:2])
        + "\n\nWhere the config is, first one found: --config, $ZEN_RUNNER_CONFIG, $ZEN_RUNNER_CONFIG_FILE,"
        + "\n/etc/zen-runner/config.yaml, .yml or .json."
        + f"\n\nexit status:\n{rows}\n  Any other is the step's own, of class user.\n"
        + "\nZEN_RUNNER_DEBUG=1 shows the traceback of an unexpected error, NO_COLOR=1 does without colours."
    )


def _examples(pairs: Sequence[tuple[str, str]]) -> str:
    lines = ["examples:"]
    for command, purpose in pairs:
        if purpose:
            lines.append(f"  # {purpose}")
        lines.append(f"  {command}")
    return "\n".join(lines)


def _sentence(verb: Verb) -> str:
    return verb.purpose[0].upper() + verb.purpose[1:] + "."


def _notes(verb: Verb) -> str:
    return _examples(verb.examples) + (f"\n\n{verb.notes}" if verb.notes else "")


def _is_config(word: str) -> bool:
    return word.endswith((".yaml", ".yml", ".json")) or os.path.isfile(word)


def _why_unknown(parser: Parser, verb: str, word: str) -> str:
    """Return why a verb does not take a word, and what may have been meant."""
    if not word.startswith("-"):
        if word in VERBS:
            return f"unexpected {word!r}: the verb goes first, as in `{PROGRAM} {word} …`"
        if _is_config(word):
            return f"unexpected {word!r} (did you mean --config {shlex.quote(word)}?)"
        return f"unexpected {word!r}; see: {parser.prog} --help"
    flag = word.partition("=")[0]
    hint = did_you_mean(flag, parser.flags())
    if not hint:
        others = [name for name in VERBS if name != verb and flag in parser_of(name).flags()]
        hint = f"; {' and '.join(others)} {'has' if len(others) == 1 else 'have'} it" if others else ""
    return f"{verb} has no flag {flag!r}{hint}; see: {parser.prog} --help"
