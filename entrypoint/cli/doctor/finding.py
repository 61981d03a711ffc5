"""What a check looks at, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from backends import errors

OK, WARN, FAIL, NOT_APPLICABLE = "ok", "warn", "fail", "n/a"
LIMIT = 5.0  # seconds that one check may take


class Finding(NamedTuple):
    """What one check found.

    Args:
        name: the check.
        state: ``ok``, ``warn``, ``fail`` or ``n/a``.
        detail: what was found.
        fix: what to do about it; empty when there is nothing to do.
    """

    name: str
    state: str
    detail: str
    fix: str = ""


class Place(NamedTuple):
    """What the checks look at.

    Args:
        environ: the environment variables.
        config: the resolved config, if there is one.
        config_problem: why there is none although one was named.
        store: URL or path of the store, if known.
    """

    environ: Mapping[str, str]
    config: dict[str, Any] | None = None
    config_problem: errors.ZenRunnerError | None = None
    store: str | None = None

    @property
    def steps(self) -> dict[str, Any]:
        """The config's steps; none without a config."""
        return self.config["steps"] if self.config else {}

    def needing(self, need: Callable[[dict[str, Any]], Any]) -> str:
        """Return the names of the steps for which ``need`` is true, as words: ``step 'a'`` or ``steps 'a', 'b'``."""
        names = [repr(name) for name, step in self.steps.items() if need(step)]
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        return f"{'step' if len(names) == 1 else 'steps'} {shown}" if names else ""


def read_or_empty(path: str) -> str:
    """Return a file's text without the white space around it; an empty string where it can't be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
