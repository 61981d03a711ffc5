"""The command line: one verb, one function, which imports what it needs, as the start is part of every step's time."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from backends import errors, outcome
from entrypoint.cli.common import quote, tell
from entrypoint.cli.parser import PROGRAM, Parser, examples, notes, sentence
from entrypoint.cli.verbs import VERBS, module_of

INTERNAL = 1  # exit status of a bug in the runner itself, which is in no class of the table
BROKEN_PIPE = 141  # 128 + SIGPIPE, what a program that the signal ends has


def _epilog() -> str:
    rows = "\n".join(f"  {row.code:>3}  {row.name:<12}{row.meaning}" for row in outcome.TABLE)
    return (
        examples(VERBS["run"].examples[:2])
        + "\n\nWhere the config is, first one found: --config, $ZEN_RUNNER_CONFIG, $ZEN_RUNNER_CONFIG_FILE,"
        + "\n/etc/zen-runner/config.yaml, .yml or .json."
        + f"\n\nexit status:\n{rows}\n  Any other is the step's own, of class user.\n"
        + "\nZEN_RUNNER_DEBUG=1 shows the traceback of an unexpected error, NO_COLOR=1 does without colours."
    )


def build() -> Parser:
    """Return the parser of the whole command line; one verb's own is quicker to make."""
    parser = Parser(
        prog=PROGRAM,
        description="One container contract, every orchestrator: runs a pipeline, or one step of it.",
        epilog=_epilog(),
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", prog=PROGRAM)
    for name, verb in VERBS.items():
        module_of(name).arguments(
            verbs.add_parser(name, help=verb.purpose, description=sentence(verb), epilog=notes(verb), add_help=True)
        )
    return parser


def build_verb(name: str) -> Parser:
    """Return the parser of one verb's arguments."""
    verb = VERBS[name]
    parser = Parser(prog=f"{PROGRAM} {name}", description=sentence(verb), epilog=notes(verb))
    module_of(name).arguments(parser)
    return parser


def verb_of(argv: Sequence[str]) -> tuple[str, list[str]]:
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
    """Return the arguments of a verb.

    Args:
        name: the verb, as it was typed.
        words: the words after it.

    Raises:
        UsageError: if the verb or one of its options is unknown.
    """
    from backends.text import did_you_mean

    if name in ("-h", "--help"):
        build().print_help()
        raise SystemExit(0)
    if name not in VERBS:
        hint = did_you_mean(name, VERBS)
        if not hint and _is_config(name):
            hint = f" (did you mean `{PROGRAM} --config {quote([name])}`?)"
        raise errors.UsageError(f"no verb {name!r}{hint}; the verbs are {', '.join(VERBS)}")
    parser = build_verb(name)
    args, rest = parser.parse_known_args(words)
    if rest:
        raise errors.UsageError(_unknown(parser, name, rest[0]))
    return args


def _is_config(word: str) -> bool:
    return word.endswith((".yaml", ".yml", ".json")) or os.path.isfile(word)


def _unknown(parser: Parser, verb: str, word: str) -> str:
    from backends.text import did_you_mean

    if not word.startswith("-"):
        if word in VERBS:
            return f"unexpected {word!r}: the verb goes first, as in `{PROGRAM} {word} …`"
        if _is_config(word):
            return f"unexpected {word!r} (did you mean --config {quote([word])}?)"
        return f"unexpected {word!r}; see: {parser.prog} --help"
    flag = word.partition("=")[0]
    known = [option for action in parser._actions for option in action.option_strings]
    hint = did_you_mean(flag, known)
    if not hint:
        others = [name for name in VERBS if name != verb and flag in build_verb(name)._option_string_actions]
        hint = f"; {' and '.join(others)} {'has' if len(others) == 1 else 'have'} it" if others else ""
    return f"{verb} has no flag {flag!r}{hint}; see: {parser.prog} --help"


def _mend_streams() -> None:
    """Make text on stdout and stderr safe to write: a closed stream becomes /dev/null, an odd character its escape."""
    import io

    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process lives
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status.

    Args:
        argv: the arguments; None for this process's own.
    """
    environ = os.environ
    _mend_streams()
    name, words = verb_of(sys.argv[1:] if argv is None else argv)
    try:
        try:
            args = parse(name, words)
            return module_of(name).main(args, environ)
        finally:
            sys.stdout.flush()
    except SystemExit:  # argparse's --help
        return 0
    except errors.ZenRunnerError as error:
        if name == "run":
            from entrypoint.cli.verbs.run import refuse

            return refuse(error, environ.get("ZEN_RUNNER_STEP"))
        tell(error, environ)
        return error.exit_code
    except BrokenPipeError:
        # Python flushes stdout once more as it ends, and would complain that nobody reads it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return outcome.code_of(outcome.TERMINATED)
    except Exception as error:
        if environ.get("ZEN_RUNNER_DEBUG"):
            raise
        text = f"{PROGRAM}: unexpected {type(error).__name__}: {error}; set ZEN_RUNNER_DEBUG=1 to see where\n"
        sys.stderr.write(text)
        return INTERNAL
