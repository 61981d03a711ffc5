"""Read a step's log, and follow it while it grows."""

from __future__ import annotations

import time

from backends.outcome import SUCCESS
from backends.store import keys
from backends.store.records import attempts, result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backends.store.base import Store


def log_chunks(
    store: Store,
    run: str,
    step: str,
    attempt: int | None = None,
    *,
    follow: bool = False,
    stop: Callable[[], bool] | None = None,
) -> Iterator[bytes]:
    """Yield a step's log from its beginning.

    Args:
        store: where the run lives.
        run: the run id.
        step: the step's name.
        attempt: its number; None for the last one and, when following, those that come after it while it is being read.
        follow: wait for the step to begin, and for more until the attempt has its result and all is read.
        stop: asked between looks, at most 1 s apart; True ends it.

    Returns:
        An iterator over the log's bytes in pieces of any size.
    """
    keys.check_run_id(run)
    read: dict[str, int] = {}
    number = attempt
    pause = 0.1
    while True:
        if number is None:
            known = attempts(store, run, step)
            number = known[-1] if known else None
        news = ended = False
        if number is not None:
            ended = store.exists(keys.result(run, step, number))  # looked for first: whatever is logged by then is read below
            for key, size in sorted(store.walk(keys.logs(run, step, number))):
                done = read.get(key, 0)
                if size > done and (data := store.get(key, done)):
                    read[key] = done + len(data)
                    news = True
                    yield data
        if ended and attempt is None and number and store.exists(keys.claim(run, step, number + 1)):
            number += 1
            continue
        if ended or not follow or (stop is not None and stop()):
            return
        pause = 0.1 if news else min(1.0, pause * 1.5)
        time.sleep(pause)


def follow_step(store: Store, run: str, step: str, follow: bool, ended: Callable[[], bool]) -> Iterator[bytes]:
    """Yield the log of a step's last attempt; when following, also of those that come after it, to the step's end.

    Args:
        store: where the run lives.
        run: the run's id.
        step: the step.
        follow: go on until it has ended.
        ended: asked often: whether no more comes; a step that has succeeded is at its end whatever this says.
    """
    number = 0
    while True:
        over = not follow or ended()
        later = [attempt for attempt in attempts(store, run, step) if attempt > number]
        for attempt in later if number else later[-1:]:
            yield from log_chunks(store, run, step, attempt, follow=follow, stop=ended)
            number = attempt
        last = result(store, run, step, number) if number else None
        if over or (last is not None and last["class"] == SUCCESS):
            return
        time.sleep(0.2)
