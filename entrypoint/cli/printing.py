"""What goes to stdout as text or JSON, and errors to stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from backends import errors
from entrypoint.cli.parser import PROGRAM
from entrypoint.cli.terminal import paint, wants_colour, write_fd

if TYPE_CHECKING:
    from entrypoint.cli.config import Environ


def print_text(text: str) -> None:
    """Print a text, and an end of line unless it has one."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    import json  # 1 ms, which texts and errors do without

    print_text(json.dumps(value, indent=2, ensure_ascii=False))


def print_error(error: errors.ZenRunnerError, environ: Environ) -> None:
    """Print an error on stderr; of a config, every problem on a line of its own."""
    head = f"{PROGRAM}: {paint('error', 'error', wants_colour(2, environ))}: "
    if isinstance(error, errors.ConfigError) and len(error.problems) > 1:
        text = f"{head}{len(error.problems)} problems in the config\n" + "".join(f"  {p}\n" for p in error.problems)
    else:
        text = f"{head}{error}\n"
    write_fd(2, text.encode("utf-8", "replace"))
