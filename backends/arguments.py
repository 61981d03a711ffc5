"""Checks of backends' arguments. Each returns what is wrong, so that all of it is told in one ``ConfigError``."""

from __future__ import annotations

from backends.config.naming import looks_secret
from backends.errors import ConfigError, Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def at_least(least: int, **numbers: int | None) -> list[Problem]:
    """Return the arguments that are below a number; None is no number and passes."""
    return [
        wrong(name, f"must be at least {least}, not {number}")
        for name, number in numbers.items()
        if number is not None and number < least
    ]


def positive(**seconds: float | None) -> list[Problem]:
    """Return the arguments, in seconds, that are not more than 0; None is no number and passes."""
    return [
        wrong(name, f"must be more than 0 seconds, not {number:g}")
        for name, number in seconds.items()
        if number is not None and number <= 0
    ]


def absolute(**paths: Sequence[str] | None) -> list[Problem]:
    """Return the arguments that hold a path which is not absolute."""
    return [
        wrong(name, "must be absolute paths") for name, given in paths.items() if any(path[:1] != "/" for path in given or ())
    ]


def public_variables(
    env: Iterable[str], *, secret: str = "looks secret; write it under `secrets`", reserved: tuple[str, ...] = ()
) -> list[Problem]:
    """Return the variables of an argument ``env`` that it may not set.

    Args:
        env: their names.
        secret: what to say of one whose name looks secret.
        reserved: what the names begin with that somebody else sets.
    """
    problems = []
    for name in env:
        if reserved and name.startswith(reserved):
            problems.append(wrong(f"env.{name}", "is not yours to set; remove it"))
        elif looks_secret(name):
            problems.append(wrong(f"env.{name}", secret))
    return problems


def wrong(name: str, message: str) -> Problem:
    """Return the problem that an argument has."""
    return Problem("", f"args.{name}", message)


def refuse(problems: Sequence[Problem]) -> None:
    """Raise what is wrong, if anything is.

    Raises:
        ConfigError: something is.
    """
    if problems:
        raise ConfigError(problems)
