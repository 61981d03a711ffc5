"""Watch another's attempt until it is known whether it lives: its heartbeat against itself, never one clock against another's.

Loaded only when a step's last attempt has a claim and no result.
"""

from __future__ import annotations

from time import monotonic

from backends import process
from backends.errors import DuplicateError
from backends.store import autopsy, keys, records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from backends.store.base import Store

LOOK_EVERY = 1.0  # seconds
_GONE = "its process is gone"


class Watch:
    """What one start has seen of another's attempt.

    Args:
        store: where the run lives.
        place: run, step and number of an attempt that has a claim and no result.
        claim: the bytes of its claim, perhaps torn.
    """

    def __init__(self, store: Store, place: tuple[str, str, int], claim: bytes) -> None:
        self._store = store
        self._place = place
        self._claim = claim
        self._beat: bytes | None = None
        self._looked_at: float | None = None
        self._age = 0.0  # seconds of silence by the store's clock, when the watch began
        self._silent = 0.0  # seconds of silence under our eyes
        self._patience = records.DEAD_AFTER

    def is_over(self) -> bool:
        """Look, at most once a second, and return whether the attempt has a result by now: its owner's, or as a dead one.

        Raises:
            DuplicateError: it lives.
            InfraError: the store could not be reached.
        """
        now = monotonic()
        if self._looked_at is None:
            if self._is_over_at_once():
                return True
        elif now < self._looked_at + LOOK_EVERY:
            return False
        else:
            if self._store.root is not None:
                self._store.age(keys.heartbeat(*self._place))  # ends what a network mount remembers of the folder
            if records.result(self._store, *self._place) is not None:
                return True
            if self._store.get(keys.heartbeat(*self._place)) != self._beat:
                raise duplicate(self._place, self._claim, 0.0)
            # While the store was away, or this process slept, there was nothing to see.
            self._silent += min(now - self._looked_at, 2 * LOOK_EVERY)
        self._looked_at = now
        if self._silent < self._patience:
            return False
        autopsy.bury(self._store, self._place, self._claim, f"it was silent for {self._age + self._silent:.0f} s")
        return True

    def _is_over_at_once(self) -> bool:
        """Take a first look, and bury an owner that can be seen to be dead."""
        self._beat = self._store.get(keys.heartbeat(*self._place))
        lives = _is_alive(self._claim)
        if lives is False:
            autopsy.bury(self._store, self._place, self._claim, _GONE, is_gone=True)
            return True
        age = _silence(self._store, self._place)
        if lives and age is not None and age < records.DEAD_AFTER:
            raise duplicate(self._place, self._claim, age)
        self._age = age or 0.0
        if age is None or age >= records.DEAD_AFTER:
            # Long dead, or the store's clock has jumped: a living owner would beat twice meanwhile.
            self._patience = min(records.DEAD_AFTER, 2 * records.HEARTBEAT_EVERY)
        return False


def settle(store: Store, place: tuple[str, str, int], claim: bytes) -> None:
    """Bury an attempt's owner if it is seen to be dead, or is silent by the store's clock, without watching it.

    Args:
        store: where the run lives.
        place: run, step and number of an attempt that has a claim and no result.
        claim: the bytes of its claim, perhaps torn.

    Raises:
        InfraError: the store could not be reached.
    """
    if _is_alive(claim) is False:
        autopsy.bury(store, place, claim, _GONE, is_gone=True)
    elif (age := _silence(store, place)) is None or age >= records.DEAD_AFTER:
        autopsy.bury(store, place, claim, f"it was silent for {age or 0:.0f} s")


def duplicate(place: tuple[str, str, int], claim: bytes, silent: float | None = None) -> DuplicateError:
    """Return the error that says who holds a step.

    Args:
        place: run, step and number of the attempt that holds it.
        claim: the bytes of its claim, perhaps torn.
        silent: seconds since its last sign of life, if known.
    """
    run, step, number = place
    owner = records.parse_object(claim) or {}
    who = f"process {owner['pid']} on {owner['host']}" if "pid" in owner and "host" in owner else "an unknown process"
    heard = "" if silent is None else f", heard of {silent:.0f} s ago"
    return DuplicateError(
        f"step {step!r}, run {run!r}: attempt {number} is running ({who}{heard}). It counts as dead after "
        f"{records.DEAD_AFTER:.0f} s of silence; wait for it, stop it, or start a new run with another run id"
    )


def _is_alive(claim: bytes) -> bool | None:
    """Return whether a claim's process lives; None if that can't be seen from here."""
    owner = records.parse_object(claim) or {}
    return process.is_alive(owner) if process.is_visible(owner) else None


def _silence(store: Store, place: tuple[str, str, int]) -> float | None:
    """Return how many seconds ago, by the store's clock, an attempt's owner was last heard of; None if it has no claim."""
    age = store.age(keys.heartbeat(*place))
    return store.age(keys.claim(*place)) if age is None else age
