"""Wait for a step that runs as a job of a platform: a program below the attempt that started it.

The job is an ordinary container: it claims the step, logs into the store and writes the record there. Here nothing is claimed.

A job is started once, whoever waits for it, under a name made of run, step and round: ``runs/<run>/<step>/job.<round>.json`` is
a conditional create, made before the job and completed with its id after. So whoever comes after a process that was killed finds
the job, or its record. A round is over once its job has a record; the next one is another job.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from tempfile import TemporaryDirectory

from backends import outcome, wire
from backends.base import TrainingBaseBackend
from backends.errors import ConfigError, DuplicateError, InfraError, Terminated, ZenRunnerError
from backends.orchestrator.remote.job import Names, carry, contract, job_of
from backends.platform import JobStatus
from backends.process import is_alive, utc, whoami
from backends.shipping.shipment import Shipment, ship, upload
from backends.states import CANCELLED, ENDED, RUNNING
from backends.store import claims, keys, open_store, records
from backends.store.cache import cache_get
from backends.store.logs import log_chunks
from entrypoint.runtime.cached import key_of, repeat
from entrypoint.runtime.identity import with_arguments
from entrypoint.runtime.inputs import Inputs
from entrypoint.runtime.run import Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from backends.orchestrator.remote.job import Job
    from backends.platform import Document
    from backends.store.records import Record
    from entrypoint.runtime.waiting import Order

PASSED = ("TRACEPARENT", "ZEN_RUNNER_INPUTS_RUN")
"""What the container takes over from the environment here."""
MISSED = 3
"""Looks in a row in which a platform does not know a job that is then taken to be gone."""
LONGEST_PAUSE = 0.5
KILL_AFTER = 10.0  # seconds behind the step's grace period
TAIL, LAST_WORDS = 2048, 8192  # bytes of a job's output: for a record, and in which its last words are


class RemoteJob:
    """One step's job, as whoever waits for it knows it.

    Args:
        run: the step's run.
        step: the step.
        memory: bytes; None for what the config says.

    Attributes:
        name: what the platform calls it.
        stopping: somebody asked for its end.
        backend: the step's.
        platform: where the job runs.
    """

    def __init__(self, run: Run, step: str, memory: int | None) -> None:
        self._run = run
        self._store = run.store
        self._step = step
        self._spec: dict[str, Any] = run.config["steps"][step]
        self._memory = self._spec["resources"]["memory"] if memory is None else memory
        self.backend = TrainingBaseBackend.from_config(self._spec["backend"])
        self.platform = self.backend.platform(run.store)
        self.stopping = False
        self._others: set[int] = set()  # attempts that are not the job's
        self._attempt: claims.Attempt | None = None
        self._began, self._started = time.monotonic(), utc()
        self._number, self.name = self._round()

    def _round(self) -> tuple[int, str]:
        last = records.last_job(self._store, self._run.run, self._step)[0] or 1
        self.name = self._name(last)
        if self.record() is None:
            return last, self.name
        self._attempt = None
        return last + 1, self._name(last + 1)

    def _name(self, number: int) -> str:
        # An orchestrator of the same platform has names of the same form; a step's name has no capitals.
        return Names(self.backend.rule, self._run.config["store"], self._run.run, number).of(f"JOB-{self._step}")

    def stop(self) -> None:
        """Note that its end was asked for."""
        self.stopping = True

    # -- what the store says -------------------------------------------------------------------------------------------------

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
        record = repeat(self._make(outcome.SUCCESS, 0, ""), before)
        record["inputs"] = digests
        return self._publish(record)

    def settle(self, kind: str, code: int, message: str, tail: str = "") -> Record:
        """Write the record of a job that left none, and return the one that counts."""
        record = self._make(kind, code, message)
        if tail:
            record["log_tail"] = tail
        return self._publish(record)

    def _make(self, kind: str, code: int, message: str) -> Record:
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

    # -- the start -----------------------------------------------------------------------------------------------------------

    def find(self) -> str | None:
        """Return the id of the job if it was started; wait for another process that is about to do that."""
        key = keys.job(self._run.run, self._step, self._number)
        while (note := records.read_json(self._store, key)) is not None:
            job = note.get("job") or self.platform.find(self.name).get(self.name)
            if job is not None:
                _say(f"steps.{self._step} runs as {self.name}; waiting for it")
                return str(job)
            lives = is_alive(note)
            if lives is None:
                lives = (self._store.age(key) or records.DEAD_AFTER) < records.DEAD_AFTER
            if not lives:
                return None
            self._check()
            time.sleep(0.2)
        return None

    def start(self) -> str:
        """Start the job, unless somebody else does so first, and return its id.

        Raises:
            ConfigError: the platform can't run this, or its containers don't see the store.
            InfraError: the store or the platform could not be reached.
            Terminated: its end was asked for before.
        """
        documents = self._prepare()
        self._check()
        key, note = keys.job(self._run.run, self._step, self._number), self._note()
        if not self._store.create(key, wire.dumps(note).encode()):
            if (job := self.find()) is not None:
                return job
            self._store.put(key, wire.dumps(note).encode())  # that of a process that is gone, and has started nothing
        for document in documents[:-1]:
            self.platform.prepare(document)
        try:
            job = self.platform.start(documents[-1], {})
        except ZenRunnerError:
            if not self.platform.doubtful:
                self._store.delete(key)  # nothing was started
            raise
        self._store.put(key, wire.dumps({**note, "job": job}).encode())
        _say(f"steps.{self._step} runs on {self._spec['backend']['source']} as {self.name}")
        return job

    def _note(self) -> dict[str, Any]:
        backend = self._spec["backend"]
        return {"version": 1, "run": self._run.run, "step": self._step, "round": self._number, "name": self.name, "at": utc(),
                "backend": backend, **whoami()}  # fmt: skip

    def _prepare(self) -> list[Document]:
        """Ship code and config, and return what the platform is to start."""
        config, step = self._run.config, self._step
        with TemporaryDirectory(prefix="zen-runner-") as folder:
            # What other steps read is no concern of this one's; and in the container it runs where it is.
            alone = ship({**config, "steps": {step: self._spec}}, folder, mounts=self.backend.mounts())
            steps = {**config["steps"], step: {**self._spec, "backend": None}}
            shipment = Shipment({**alone.config, "steps": steps}, alone.archive, alone.receipt)
            documents = self.backend.render_job(self._job(shipment.config), shipment.config, self._run.environ)
            self.platform.check()
            upload(shipment, self._store)
        return documents

    def _job(self, config: dict[str, Any]) -> Job:
        env = {**contract(config, self._step, self._step, self._run.run), "ZEN_RUNNER_ATTEMPT": self.name}
        for name in PASSED:
            if name in self._run.environ:
                env[name] = self._run.environ[name]
        carried = carry(config, self.backend.limits, used=self.backend.count_variables(env))
        env.update(carried.environment(self.backend.config_path))
        job = job_of(config, self._step, self._spec, self._run.run)
        return job._replace(name=self.name, env=env, memory=self._memory)

    def _check(self) -> None:
        if self.stopping:
            raise Terminated("stopped before the step began")

    # -- the end -------------------------------------------------------------------------------------------------------------

    def bury(self, job: str, status: JobStatus | None) -> Record:
        """Return the record of a job that has ended, or is gone; None for ``status`` means the second."""
        if (record := self.record()) is not None:
            return record
        if good := records.good_result(self._store, self._run.run, self._step):
            return good  # the step had been done before, so the job did nothing
        tail, words = self._read_log(job)
        if words is not None and (status is None or status.exit_code in (None, words["exit_code"])):
            return self.settle(words["class"], words["exit_code"], str(words["message"]), tail)
        if self.stopping:
            return self.settle(outcome.TERMINATED, outcome.code_of(outcome.TERMINATED), "the job was ended", tail)
        if status is None:
            return self.settle(outcome.INFRA, outcome.code_of(outcome.INFRA), "the job is gone, and left no record", tail)
        kind, code = status.verdict()
        if status.exit_code == 0:
            image = self._spec["image"]
            message = f"the job ended well and left no record: {image} does not run zen-runner; keep its images' ENTRYPOINT"
        else:
            how = "ended" if status.exit_code is None else f"ended with {status.exit_code}"
            how = "was cancelled" if status.state == CANCELLED else how
            message = f"the job {how} and left no record{f': {status.message}' if status.message else ''}"
        return self.settle(kind, code, message, tail)

    def _read_log(self, job: str) -> tuple[str, Record | None]:
        """Return the last that the platform kept of the job's output, and the record that is its last line."""
        text = b""
        with suppress(ZenRunnerError, OSError):
            for chunk in self.platform.log(job):
                text = (text + chunk)[-LAST_WORDS:]
        head, _, line = text.rstrip(b"\n").rpartition(b"\n")
        try:
            words: Record = wire.loads(line)
            outcome.code_of(words["class"])
            if (words["run"], words["step"]) == (self._run.run, self._step) and words["class"] != outcome.SUCCESS:
                return head[-TAIL:].decode("utf-8", "replace"), words
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        return text[-TAIL:].decode("utf-8", "replace"), None


class Wait:
    """The waiting for one job that was started.

    Args:
        remote: the job.
        job: its id.
        spec: the step.
        parent: the process that wants to know.
    """

    def __init__(self, remote: RemoteJob, job: str, spec: dict[str, Any], parent: int) -> None:
        self._remote = remote
        self._platform = remote.platform
        self._job = job
        self._parent = parent
        self._timeout: float | None = spec["timeout"]
        self._startup = remote.backend.startup_timeout
        self._grace = float(spec["grace_period"])
        self._began = time.monotonic()
        self._asked: float | None = None  # when the platform was told to end it
        self._runs = False
        self._missed = 0
        self._look_at = 0.0
        self._log: threading.Thread | None = None
        self._over = threading.Event()

    def wait(self) -> Record:
        """Return the job's record.

        Raises:
            InfraError: the store or the platform could not be asked, so that the job's end is still open.
            Terminated: the job could not be told to end.
        """
        pause = 0.05
        try:
            while (record := self._look()) is None:
                if os.getppid() != self._parent:
                    raise InfraError("nobody waits any more")
                time.sleep(pause)
                pause = min(pause * 1.5, LONGEST_PAUSE)
        finally:
            self._over.set()
        if self._log is not None:
            self._log.join(10.0)
        self._platform.forget(self._job)
        return record

    def _look(self) -> Record | None:
        remote, now = self._remote, time.monotonic()
        if (record := remote.record()) is not None:
            self._follow()
            return record
        self._follow()
        if remote.stopping:
            self._end(now)
        elif self._timeout is not None and now - self._began > self._timeout:
            message = f"ran past its timeout of {self._timeout:g} s, with the waiting for it"
            record = remote.settle(outcome.TIMEOUT, outcome.code_of(outcome.TIMEOUT), message)
            self._platform.end([self._job])
            return record
        if now < self._look_at:
            return None
        status = self._platform.look([self._job]).get(self._job)
        self._look_at = now + self._platform.pace
        self._missed = self._missed + 1 if status is None else 0
        if (status is None and self._missed >= MISSED) or (status is not None and status.state in ENDED):
            return remote.bury(self._job, status)
        self._runs = self._runs or self._log is not None or (status is not None and status.state == RUNNING)
        if not self._runs and self._startup is not None and now - self._began > self._startup and not remote.stopping:
            self._platform.end([self._job])
            said = f": {status.message}" if status is not None and status.message else ""
            return remote.settle(outcome.INFRA, outcome.code_of(outcome.INFRA), f"not running after {self._startup:g} s{said}")
        return None

    def _end(self, now: float) -> None:
        """Tell the platform to end the job, and once more if it has not when its grace period is over."""
        if self._asked is not None and now - self._asked < self._grace + KILL_AFTER:
            return
        try:
            self._platform.end([self._job])
        except ZenRunnerError as error:
            raise Terminated(f"the job {self._remote.name} could not be told to end, and goes on: {error}") from error
        self._asked = now

    def _follow(self) -> None:
        """Pass on the log of the job's attempt from when there is one."""
        attempt = self._remote.attempt()
        if attempt is None or self._log is not None:
            return

        def copy() -> None:
            with suppress(ZenRunnerError, OSError):  # what is not passed on is in the store all the same
                for chunk in log_chunks(attempt.store, *attempt.place, follow=True, stop=self._over.is_set):
                    sys.stdout.buffer.write(chunk)
                    sys.stdout.buffer.flush()

        self._log = threading.Thread(target=copy, name="zen-runner log", daemon=True)
        self._log.start()


def run_job(order: Order) -> Record:
    """Return the record of a step's job, which is started, found or not needed."""
    store, step = open_store(order["store"]), order["step"]
    config = records.get_config(store, order["config"])
    if config is None:
        raise ConfigError(f"the config {order['config']} is not in {store.url}")
    run = Run(with_arguments(config, step, os.environ), order["config"], order["run"], store, os.environ)
    remote = RemoteJob(run, step, order["memory"])
    if good := records.good_result(store, order["run"], step):  # looked for after the round was: one that ends now is no reason
        return good  # for another
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: remote.stop())
    job = remote.find()
    if job is None:
        run.enter()
        if (record := remote.look_into_cache()) is not None:
            return record
        job = remote.start()
    return Wait(remote, job, config["steps"][step], order["parent"]).wait()


def main(argv: Sequence[str]) -> int:
    """Wait for the job that an order speaks of, leave the record in its answer, and return the exit status."""
    order: Order = wire.loads(argv[1])
    began, started = time.monotonic(), utc()
    try:
        record = run_job(order)
    except ZenRunnerError as error:
        run, step, sha, kind = order["run"], order["step"], order["config"], error.outcome_class
        record = records.make_record(run, step, 0, kind, str(error), code=error.exit_code, started=started, config=sha)
        record["seconds"] = round(time.monotonic() - began, 3)
    if os.getppid() != order["parent"]:
        return record["exit_code"]
    with open(order["answer"] + ".new", "w") as file:
        file.write(wire.dumps(record))
    os.rename(order["answer"] + ".new", order["answer"])
    return record["exit_code"]


def _say(text: str) -> None:
    with suppress(OSError):
        print(f"zen-runner: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
