"""Claim a step: one owner per attempt."""

from __future__ import annotations

import os

from backends import wire
from backends.errors import DuplicateError
from backends.process import utc, whoami
from backends.store import keys
from backends.store.records import DEAD_AFTER, attempts, good_of, result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from backends.store.base import Store
    from backends.store.records import Record


_ROUNDS = 8


class AlreadyDone(Exception):
    """The step has a good result in this run, so it isn't run again; ``record`` is that result."""

    def __init__(self, record: Record) -> None:
        self.record = record
        super().__init__(f"step {record.get('step')!r} of run {record.get('run')!r} is finished")


class Attempt:
    """One attempt at a step that this process owns; `claim` makes it.

    Attributes:
        number: counts from 1 within the run and step.
        place: run, step and number, as the functions of `keys` take them.
        prefix: the key under which everything of the attempt lies, ``runs/<run>/<step>/<number>``.
        token: what no other claim has, of any store; the step's processes carry it in their environment as ``ZEN_CLAIM``.
    """

    __slots__ = ("number", "place", "prefix", "run", "step", "store", "token")

    def __init__(self, store: Store, run: str, step: str, number: int, token: str) -> None:
        self.store = store
        self.run = run
        self.step = step
        self.number = number
        self.place = (run, step, number)
        self.prefix = keys.attempt(run, step, number)
        self.token = token

    def heartbeat(self, body: Mapping[str, Any]) -> bool:
        """Tell the store that the owner lives.

        Args:
            body: what a successor should know if this is the last word: ``usage`` above all.

        Returns:
            False if the attempt has been declared dead: its result can no longer count, so the step should stop.

        Raises:
            InfraError: the store could not be written.
        """
        self.store.put(keys.heartbeat(*self.place), wire.dumps({"at": utc(), **body}).encode())
        return not self.store.exists(keys.result(*self.place))

    def finish(self, record: Mapping[str, Any]) -> None:
        """Publish how the attempt ended; call it last, with the outputs in place.

        Args:
            record: the result record; ``version``, ``run``, ``step`` and ``attempt`` are filled in.

        Raises:
            DuplicateError: the attempt was declared dead before, so this result does not count.
            InfraError: the store could not be written.
        """
        full = {**record, "version": 1, "run": self.run, "step": self.step, "attempt": self.number}
        if not self.store.create(keys.result(*self.place), wire.dumps(full).encode()):
            raise DuplicateError(
                f"step {self.step!r}, run {self.run!r}: attempt {self.number} was silent for {DEAD_AFTER:.0f} s, was "
                "declared dead, and its result does not count; if this machine did not sleep, check its link to the store"
            )


def claim(store: Store, run: str, step: str, owner: Mapping[str, Any]) -> Attempt:
    """Make this process the only owner of a step's next attempt.

    A predecessor that died is first given its last words: its remaining log, its counters and a result of class
    ``infra`` or ``oom``; what it left running on this machine is killed.

    Args:
        store: where the run lives.
        run: the run id.
        step: the step's name.
        owner: what else the claim should say. Known keys: ``config``, the config's sha256; ``scratch``, a directory
            whose ``log/`` holds the log's segments on their way to a bucket; ``cgroup``, the directory with the memory
            cgroup's counters, and ``oom_kill``, their count now.

    Returns:
        The attempt; its number is one more than the last one's.

    Raises:
        AlreadyDone: an earlier attempt has a good result.
        DuplicateError: another live attempt holds the step.
        InfraError: the store could not be reached.
    """
    keys.check_run_id(run)
    for _ in range(_ROUNDS):  # each further round means that somebody else changed the step's state meanwhile
        numbers = attempts(store, run, step)
        number = 1
        if numbers:
            number = numbers[-1]
            last = result(store, run, step, number)
            if last is not None:
                if "declared_by" in last:
                    from backends.store import autopsy

                    autopsy.clean_up(store, run, step, number)
                number += 1
            elif (held := store.get(keys.claim(run, step, number))) is not None:
                from backends.store import autopsy

                autopsy.perform(store, run, step, number, held)
                continue  # now it has a result, perhaps its own and a good one
            if good := good_of(store, run, step, numbers):
                raise AlreadyDone(good)
        # It also makes no two claims the same bytes, so that a store can tell its own repeated write.
        attempt = Attempt(store, run, step, number, os.urandom(8).hex())
        body = {"version": 1, "run": run, "step": step, "attempt": number, "at": utc(), **whoami(), **owner}
        body["token"] = attempt.token
        if store.create(keys.claim(run, step, attempt.number), wire.dumps(body).encode()):
            return attempt
    from backends.store import autopsy

    raise autopsy.duplicate(run, step, number, store.get(keys.claim(run, step, number)) or b"")
