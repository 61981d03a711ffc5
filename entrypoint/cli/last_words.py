"""The last words of `run` for whoever started it: the run's record, or why nothing could begin."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from backends import errors
from entrypoint.cli.printing import print_error
from entrypoint.cli.terminal import write_fd
from entrypoint.runtime.last_words import last_words


def leave_last_words(record: Mapping[str, Any]) -> None:
    """Leave the record in the termination log, and on stderr as its last line unless a person reads there."""
    line = last_words({"version": 1, "step": None, "attempt": None, **record})
    if not os.isatty(2):
        write_fd(2, line.encode())


def refuse(error: errors.ZenRunnerError, step: str | None, run: str | None = None) -> int:
    """Print why a run or a step can't begin, leave the last words, and return the exit status.

    Args:
        error: the reason.
        step: the step that was asked for; None for the whole pipeline.
        run: the run's id, if known.
    """
    print_error(error, os.environ)
    kind, code = error.outcome_class, error.exit_code
    leave_last_words({"run": run, "step": step, "class": kind, "exit_code": code, "message": str(error)})
    return code
