"""Claim a step: one owner per attempt."""

from __future__ import annotations

import os

from backends import wire
from backends.errors import DuplicateError
from backends.process import utc, whoami
from backends.store import keys
from backends.store.records import DEAD_AFTER, attempts, good_of, parse_object, result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from backends.store.base import Store
    from backends.store.records import Record
    from backends.store.watch import Watch


_ROUNDS = 8
# Attempts of this process that are over, and yet have no result in the store: what it was to be, by the claim's token; nothing
# where the claim itself failed, and perhaps only its answer.
_over: dict[str, bytes] = {}


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
        data = wire.dumps(full).encode()
        _over[self.token] = data
        created = self.store.create(keys.result(*self.place), data)
        del _over[self.token]
        if not created:
            raise DuplicateError(
                f"step {self.step!r}, run {self.run!r}: attempt {self.number} was silent for {DEAD_AFTER:.0f} s, was "
                "declared dead, and its result does not count; if this machine did not sleep, check its link to the store"
            )


class Candidate:
    """A start that wants to be the only owner of a step's next attempt.

    A predecessor that died is first given its last words: its remaining log, its counters and a result of class
    ``infra`` or ``oom``; what it left running on this machine is killed.

    Args:
        store: where the run lives.
        run: the run id.
        step: the step's name.
        owner: what else the claim should say. Known keys: ``config``, the config's sha256; ``scratch``, a directory
            whose ``log/`` holds the log's segments on their way to a bucket; ``cgroup``, the directory with the memory
            cgroup's counters, and ``oom_kill``, their count now.
    """

    def __init__(self, store: Store, run: str, step: str, owner: Mapping[str, Any]) -> None:
        self._store = store
        self._run = keys.check_run_id(run)
        self._step = step
        self._owner = owner
        self._watch: Watch | None = None

    @property
    def is_waiting(self) -> bool:
        """Another holds the step, and it is being watched."""
        return self._watch is not None

    def claim(self) -> Attempt | None:
        """Claim the next attempt.

        Returns:
            The attempt; its number is one more than the last one's. None while another holds the step of whom nobody knows
            yet whether it lives: ask again about once a second.

        Raises:
            AlreadyDone: an earlier attempt has a good result.
            DuplicateError: another live attempt holds the step.
            InfraError: the store could not be reached.
        """
        store, run, step = self._store, self._run, self._step
        for _ in range(_ROUNDS):  # each further round means that somebody else changed the step's state meanwhile
            if self._watch is not None and not self._watch.is_over():
                return None
            self._watch = None
            numbers = attempts(store, run, step)
            number = numbers[-1] if numbers else 1
            if numbers:
                last = result(store, run, step, number)
                if last is None and (held := store.get(keys.claim(run, step, number))) is not None:
                    self._settle((run, step, number), held)
                    continue  # now it has a result, perhaps its own and a good one, or is watched
                if good := good_of(store, run, step, numbers):
                    raise AlreadyDone(good)
                if last is not None:
                    from backends.store import autopsy

                    autopsy.clean_up(store, (run, step, number))
                    number += 1
            attempt = self._create(number)
            if attempt is not None:
                return attempt
        from backends.store import watch

        raise watch.duplicate((run, step, number), store.get(keys.claim(run, step, number)) or b"")

    def _settle(self, place: tuple[str, str, int], held: bytes) -> None:
        """Give an attempt of this process its result if it is over, or begin to watch one of another's."""
        token = (parse_object(held) or {}).get("token")
        if not isinstance(token, str) or token not in _over:
            from backends.store import watch

            self._watch = watch.Watch(self._store, place, held)
            return
        from backends.store import autopsy

        if data := _over[token]:
            self._store.create(keys.result(*place), data)
        else:
            autopsy.bury(self._store, place, held, "the answer to its claim was lost", is_gone=True)
        del _over[token]
        autopsy.clean_up(self._store, place)

    def _create(self, number: int) -> Attempt | None:
        # The token also makes no two claims the same bytes, so that a store can tell its own repeated write.
        attempt = Attempt(self._store, self._run, self._step, number, os.urandom(8).hex())
        body = {"version": 1, "run": self._run, "step": self._step, "attempt": number, "at": utc(), **whoami(), **self._owner}
        body["token"] = attempt.token
        _over[attempt.token] = b""
        created = self._store.create(keys.claim(*attempt.place), wire.dumps(body).encode())
        del _over[attempt.token]
        return attempt if created else None
