"""Do some work in another thread, while the main thread serves signals."""

from __future__ import annotations

import _thread
from time import monotonic

from backends.errors import Terminated
from entrypoint.runtime.stop import SLACK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from entrypoint.runtime.supervise import Supervisor

    Result = TypeVar("Result")

LONG = 3600.0  # seconds; whatever happens wakes the loop sooner
left_behind: list[str] = []  # threads that did not answer a stop; the process must not wait for them as it ends


def aside(work: Callable[[], Result], supervisor: Supervisor) -> Result:
    """Return what some work returns, or raise what it raises.

    Args:
        work: done in another thread.
        supervisor: serves signals meanwhile.

    Raises:
        Terminated: a stop signal came, and the work does not end.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - it is raised in the main thread
            errors.append(error)
        supervisor.wake()

    _thread.start_new_thread(run, ())
    while not (results or errors):
        until = None if supervisor.stopped_at is None else supervisor.stopped_at + SLACK
        if until is not None and monotonic() >= until:
            left_behind.append("preparation")
            raise Terminated("stopped before the step began")
        supervisor.poll(LONG if until is None else until - monotonic())
    if errors:
        raise errors[0]
    return results[0]
