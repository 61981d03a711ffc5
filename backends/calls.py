"""Call a platform's API with patience."""

from __future__ import annotations

import time
from itertools import count

from backends.backoff import backoff
from backends.errors import ConfigError, InfraError, PlacementError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    T = TypeVar("T")


sleep = time.sleep
_TRIES, _LONGEST, _PAUSE = 8, 120.0, 20.0


class Fault:
    """What an exception of a platform's client means.

    Args:
        retry: the same call may succeed a little later: throttled, timed out, 5xx.
        why: what the platform said, in one line.
        fix: what to do about it.
        config: the config is to blame, not the platform.
    """

    __slots__ = ("config", "fix", "retry", "why")

    def __init__(self, retry: bool, why: str, fix: str = "", config: bool = False) -> None:
        self.retry = retry
        self.why = why
        self.fix = fix
        self.config = config


def call(
    function: Callable[[], T],
    what: str,
    judge: Callable[[Exception], Fault | None],
    *,
    tries: int = _TRIES,
    longest: float = _LONGEST,
) -> T:
    """Call a platform's API, again after a pause where that helps.

    Args:
        function: makes the call.
        what: the call and its place, such as ``the queue in eu-west-1: submission of step 'train'``.
        judge: says what an exception means; None lets it through as it is.
        tries: the most calls.
        longest: no call begins later than this many seconds after the first.

    Raises:
        ConfigError: the platform refused what the config asks for.
        InfraError: the platform could not be reached, or refused, and more calls don't help.
    """
    until = time.monotonic() + longest
    for turn in count(1):
        try:
            return function()
        except Exception as error:
            fault = judge(error)
            if fault is None:
                raise
            pause = min(backoff(0.5, turn - 1), _PAUSE)
            if not fault.retry or turn >= tries or time.monotonic() + pause > until:
                text = f"{what}: {fault.why}"
                if turn > 1:
                    text += f" ({turn} tries)"
                if fault.fix:
                    text += f"; {fault.fix}"
                raise (ConfigError(text) if fault.config else InfraError(text)) from error
        sleep(pause)
    raise AssertionError  # the count has no end


def sdk(module: str, extra: str) -> Any:
    """Import a platform's client library.

    Args:
        module: its name, such as ``boto3``.
        extra: the extra of this package that brings it.

    Raises:
        PlacementError: it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise PlacementError(f"{module} is not installed here ({error}): pip install 'zen-runner[{extra}]'") from error
