"""A round of a step's jobs, as the store knows it: its name, its attempt, its record.

A job is started once, whoever waits for it, under a name made of run, step and round: ``runs/<run>/<step>/job.<round>.json`` is
a conditional create, made before the job and completed with its id after. A round is over once its job has a record; the next
one is another job.
"""

from __future__ import annotations

import time

from backends import outcome, wire
from backends.errors import DuplicateError
from backends.process import is_alive, utc, whoami
from backends.store import claims, keys, records
from backends.store.cache import cache_get
from entrypoint.runtime.cached import key_of, repeat
from entrypoint.runtime.inputs import Inputs
from entrypoint.runtime.job_documents import name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from backends.names import Rule
    from backends.store.records import Record
    from entrypoint.runtime.run import Run


class Round:
    """A step's current job, as the store knows it: the last one that has no record, else the next.

    Args:
        run: the step's run.
        step: the step.
        rule: what the platform takes for a name.

    Attributes:
        name: what the platform calls the job.
    """

    def __init__(self, run: Run, step: str, rule: Rule) -> None:
        self._run = run
        self._store = run.store
        self._step = step
        self._spec: dict[str, Any] = run.config["steps"][step]
        self._rule = rule
        self._others: set[int] = set()  # attempts that are not the job's
        self._attempt: claims.Attempt | None = None
        self._began, self._started = time.monotonic(), utc()
        self._number = records.last_job(run.store, run.run, step)[0] or 1
        self.name = self._name(self._number)
        if self.record() is not None:
            self._attempt = None
            self._number += 1
            self.name = self._name(self._number)

    def _name(self, number: int) -> str:
        return name_of(self._rule, self._run.config, self._run.run, self._step, number)

    # -- who starts the job --------------------------------------------------------------------------------------------------

    def note(self) -> dict[str, Any] | None:
        """Return what is noted of the job; None if nobody has begun to start it."""
        return records.read_json(self._store, self._key())

    def is_starting(self, note: dict[str, Any]) -> bool:
        """Return whether the process that made a note lives, and so is about to start the job."""
        lives = is_alive(note)
        return (self._store.age(self._key()) or records.DEAD_AFTER) < records.DEAD_AFTER if lives is None else lives

    def begin(self, backend: dict[str, Any]) -> dict[str, Any] | None:
        """Note that this process is to start the job, and return the note; None if another has done so first."""
        note = self._make_note(backend)
        return note if self._store.create(self._key(), wire.dumps(note).encode()) else None

    def take_over(self, backend: dict[str, Any]) -> dict[str, Any]:
        """Note it over what a process has left that is gone."""
        note = self._make_note(backend)
        self._store.put(self._key(), wire.dumps(note).encode())
        return note

    def complete(self, note: dict[str, Any], job: str) -> None:
        """Add the job's id to a note."""
        self._store.put(self._key(), wire.dumps({**note, "job": job}).encode())

    def give_up(self) -> None:
        """Take the note back: nothing was started."""
        self._store.delete(self._key())

    def _key(self) -> str:
        return keys.job(self._run.run, self._step, self._number)

    def _make_note(self, backend: dict[str, Any]) -> dict[str, Any]:
        which = {"run": self._run.run, "step": self._step, "round": self._number, "name": self.name}
        return {"version": 1, **which, "at": utc(), "backend": backend, **whoami()}

    # -- how it ends ---------------------------------------------------------------------------------------------------------

    def attempt(self) -> claims.Attempt | None:
        """Return the attempt that the job has claimed, once it has."""
        if self._attempt is None:
            store, run, step = self._store, self._run.run, self._step
            for number in reversed(records.attempts(store, run, step)):
                if number in self._others or (claim := records.read_json(store, keys.claim(run, step, number))) is None:
                    continue
                if (claim.get("platform") or {}).get("attempt") == self.name:
                    self._attempt = claims.Attempt(store, run, step, number, str(claim.get("token")))
                    break
                self._others.add(number)
        return self._attempt

    def record(self) -> Record | None:
        """Return the record of the job's attempt, once there is one."""
        attempt = self.attempt()
        return None if attempt is None else records.result(self._store, *attempt.place)

    def look_into_cache(self) -> Record | None:
        """Return a record of this run if the step's work was done before, as far as that can be known without its container."""
        run, image = self._run, self._spec["image"]
        if not self._spec["cache"] or "@sha256:" not in image:
            return None
        inputs = Inputs(run, self._step)
        digests = inputs.unfetched_digests()
        if digests is None or (before := cache_get(self._store, key_of(run, self._step, inputs, digests, image))) is None:
            return None
        record = repeat(self._make(outcome.SUCCESS, ""), before)
        record["inputs"] = digests
        return self._publish(record)

    def good_result(self) -> Record | None:
        """Return the record of the step's success in this run, whosoever it is."""
        return records.good_result(self._store, self._run.run, self._step)

    def settle(self, kind: str, message: str, code: int | None = None, tail: str = "") -> Record:
        """Write the record of a job that left none, and return the one that counts.

        Args:
            kind: its class.
            message: why.
            code: the exit status; None for the class's own.
            tail: the end of its output.
        """
        record = self._make(kind, message, code)
        if tail:
            record["log_tail"] = tail
        return self._publish(record)

    def _make(self, kind: str, message: str, code: int | None = None) -> Record:
        seconds = round(time.monotonic() - self._began, 3)
        run, step, sha = self._run.run, self._step, self._run.sha
        record = records.make_record(run, step, 0, kind, message, code=code, started=self._started, seconds=seconds, config=sha)
        record["platform"] = self._identity()
        return record

    def _publish(self, record: Record) -> Record:
        attempt = self.attempt()
        try:
            if attempt is None:
                owner = {"config": self._run.sha, "platform": self._identity()}
                attempt = claims.Candidate(self._store, self._run.run, self._step, owner).claim()
            if attempt is None:  # another holds the step by now
                return self.record() or record
            record["attempt"] = attempt.number
            attempt.finish(record)
        except claims.AlreadyDone as done:
            return done.record
        except DuplicateError:  # its owner was quicker; or another attempt, which lives
            return self.record() or record
        return record

    def _identity(self) -> dict[str, str]:
        return {"name": "zen-runner", "run": self._run.run, "attempt": self.name}
