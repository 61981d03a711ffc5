"""The command line. A verb's module is loaded when it is asked for, as the start is part of every step's time."""

from __future__ import annotations

import io
import os
import sys
from argparse import Namespace
from collections.abc import Sequence

from backends import errors, outcome
from entrypoint.cli.command_line import parse, split_verb
from entrypoint.cli.parser import PROGRAM
from entrypoint.cli.verbs import module_of

INTERNAL = 1  # exit status of a bug in the runner itself, which is in no class of the table
BROKEN_PIPE = 141  # 128 + SIGPIPE, as of a program that the signal ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status.

    Args:
        argv: the arguments; None for this process's own.
    """
    environ = os.environ
    _mend_streams()
    name, words = split_verb(sys.argv[1:] if argv is None else argv)
    args = None
    try:
        try:
            args = parse(name, words)
            return module_of(name).main(args, environ)
        finally:
            sys.stdout.flush()
    except SystemExit:  # argparse's --help
        return 0
    except errors.ZenRunnerError as error:
        return _fail(name, error)
    except BrokenPipeError:
        # Python flushes stdout once more as it ends, and would complain that nobody reads it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return outcome.code_of(outcome.TERMINATED)
    except Exception as error:
        from entrypoint.cli.terminal import escaped

        if environ.get("ZEN_RUNNER_DEBUG"):
            raise
        if (wrong := _config_problems(args)) is not None:
            return _fail(name, wrong)
        text = f"unexpected {type(error).__name__}: {error}; set ZEN_RUNNER_DEBUG=1 to see where"
        sys.stderr.write(f"{PROGRAM}: {escaped(text)}\n")
        return INTERNAL


def _config_problems(args: Namespace | None) -> errors.ConfigError | None:
    """Return what is wrong with the config after a failure that nobody foresaw: it may say it is resolved, and not be."""
    from entrypoint.cli.config import load_config

    if args is None or not hasattr(args, "config") or args.config == "-":  # which can't be read twice
        return None
    try:
        load_config(args, os.environ, in_full=True)
    except errors.ConfigError as error:
        return error
    except Exception:  # noqa: BLE001 - the first failure is the one to tell
        pass
    return None


def _mend_streams() -> None:
    """Make text on stdout and stderr safe to write: a closed stream becomes /dev/null, an odd character its escape."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process lives
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(verb: str, error: errors.ZenRunnerError) -> int:
    """Print what went wrong and return the exit status; `run` also leaves its last words."""
    # Imported here, as `--help` and `version` do without.
    from entrypoint.cli.last_words import refuse
    from entrypoint.cli.printing import print_error

    if verb == "run":
        return refuse(error, os.environ.get("ZEN_RUNNER_STEP"))
    print_error(error, os.environ)
    return error.exit_code
