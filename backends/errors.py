"""Every error that zen-runner raises.

    ZenRunnerError                what, where and what to do; ends the process with its class's exit status
    ├── UsageError        64      the command line
    ├── InputError        65      an input artifact is missing, or not what was published
    ├── InfraError        69      the store or a platform could not be reached
    ├── DuplicateError    73      another live attempt holds the claim
    ├── PlacementError    76      what the step needs is not here
    ├── ConfigError       78      the config, with a list of problems
    ├── UserError          1      the step's own doing, found by the runner (an output not written, …)
    ├── TimedOut         124      what belongs to a step outlasts its timeout
    └── Terminated       143      a signal asked this process to stop

The cause stays attached (``raise … from``); a traceback is never what a user sees first.
"""

from __future__ import annotations

from backends import outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class ZenRunnerError(Exception):
    """Base of all. ``outcome_class`` names the row of the exit table."""

    outcome_class = outcome.USER

    @property
    def exit_code(self) -> int:
        """The exit status that belongs to this error."""
        return outcome.code_of(self.outcome_class)


class UsageError(ZenRunnerError):
    """The command line makes no sense."""

    outcome_class = outcome.USAGE


class InputError(ZenRunnerError):
    """An input artifact is missing or its digest differs from the published one."""

    outcome_class = outcome.INPUT


class InfraError(ZenRunnerError):
    """The store or a platform's API could not be reached, or refused, after its own retries."""

    outcome_class = outcome.INFRA


class DuplicateError(ZenRunnerError):
    """Another live attempt holds this step's claim."""

    outcome_class = outcome.DUPLICATE


class PlacementError(ZenRunnerError):
    """What the step needs is not in this container or on this machine."""

    outcome_class = outcome.PLACEMENT


class UserError(ZenRunnerError):
    """The step failed by its own doing in a way that the runner found out, not the step's exit status."""

    outcome_class = outcome.USER


class TimedOut(ZenRunnerError):
    """What belongs to a step, such as fetching its inputs, outlasts the step's timeout."""

    outcome_class = outcome.TIMEOUT


class Terminated(ZenRunnerError):
    """A signal asked this process to stop."""

    outcome_class = outcome.TERMINATED


class Problem:
    """One thing wrong with a config.

    Args:
        where: the file and, if known, the line, such as ``cfg.yaml:14``.
        path: the place in the document, such as ``steps.train.inputs.table``; empty for the whole document.
        message: what is wrong and what to write instead.
    """

    __slots__ = ("message", "path", "where")

    def __init__(self, where: str, path: str, message: str) -> None:
        self.where = where
        self.path = path
        self.message = message

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.path, self.message) if part)


class ConfigError(ZenRunnerError):
    """The config is wrong; ``problems`` has every finding of one pass, in the document's order."""

    outcome_class = outcome.CONFIG

    def __init__(self, problems: Sequence[Problem] | str) -> None:
        if isinstance(problems, str):
            problems = [Problem("", "", problems)]
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))
