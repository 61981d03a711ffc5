"""Wait for a step that runs as a job of a platform: a program below the attempt that started it.

The job is an ordinary container: it claims the step, logs into the store and writes the record there. Here nothing is claimed,
and whoever comes after a process here that was killed finds the job by its `Round`, or its record.
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
from backends.errors import ConfigError, InfraError, Terminated, ZenRunnerError
from backends.platform import JobStatus
from backends.process import utc
from backends.shipping.shipment import Shipment, ship, upload
from backends.states import CANCELLED, ENDED, RUNNING
from backends.store import open_store, records
from backends.store.logs import log_chunks
from entrypoint.runtime.identity import with_arguments
from entrypoint.runtime.job_documents import in_container, make_job
from entrypoint.runtime.job_round import Round
from entrypoint.runtime.run import Run
from entrypoint.runtime.waiting import announcement

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from backends.platform import Document
    from backends.store.records import Record
    from entrypoint.runtime.waiting import Order

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
        is_stopping: called often; returns whether somebody asked for its end.

    Attributes:
        backend: the step's.
        platform: where the job runs.
        round: the same job in the store.
    """

    def __init__(self, run: Run, step: str, memory: int | None, is_stopping: Callable[[], bool]) -> None:
        self._run = run
        self._step = step
        self._spec: dict[str, Any] = run.config["steps"][step]
        self._memory = self._spec["resources"]["memory"] if memory is None else memory
        self.backend = TrainingBaseBackend.from_config(self._spec["backend"])
        self.platform = self.backend.platform(run.store)
        self.round = Round(run, step, self.backend.rule)
        self.is_stopping = is_stopping

    # -- the start -----------------------------------------------------------------------------------------------------------

    def find(self) -> str | None:
        """Return the id of the job if it was started; wait for another process that is about to do that."""
        name = self.round.name
        while (note := self.round.note()) is not None:
            job = note.get("job") or self.platform.find(name).get(name)
            if job is not None:
                self._announce("; waiting for it")
                return str(job)
            if not self.round.is_starting(note):
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
        documents, backend = self._prepare(), self._spec["backend"]
        self._check()
        note = self.round.begin(backend)
        if note is None:
            if (job := self.find()) is not None:
                return job
            note = self.round.take_over(backend)
        for document in documents[:-1]:
            self.platform.prepare(document)
        try:
            job = self.platform.start(documents[-1], {})
        except ZenRunnerError:
            if not self.platform.doubtful:
                self.round.give_up()
            raise
        self.round.complete(note, job)
        self._announce()
        return job

    def _announce(self, more: str = "") -> None:
        with suppress(OSError):
            line = f"{announcement(self._step)}{self._spec['backend']['source']} as {self.round.name}{more}"
            print(line, file=sys.stderr, flush=True)

    def _prepare(self) -> list[Document]:
        """Ship code and config, and return what the platform is to start."""
        config, step = self._run.config, self._step
        with TemporaryDirectory(prefix="zen-runner-") as folder:
            # What other steps read is no concern of this one's; and in the container it runs where it is.
            alone = ship({**config, "steps": {step: self._spec}}, folder, mounts=self.backend.mounts())
            shipment = Shipment(in_container(config, step, alone.config), alone.archive, alone.receipt)
            job = make_job(self.backend, shipment.config, self._run.run, step, self.round.name, self._run.environ, self._memory)
            documents = self.backend.render_job(job, shipment.config, self._run.environ)
            self.platform.check()
            upload(shipment, self._run.store)
        return documents

    def _check(self) -> None:
        if self.is_stopping():
            raise Terminated("stopped before the step began")

    # -- the end -------------------------------------------------------------------------------------------------------------

    def bury(self, job: str, status: JobStatus | None) -> Record:
        """Return the record of a job that has ended, or is gone; None for ``status`` means the second."""
        if (record := self.round.record()) is not None:
            return record
        if good := self.round.good_result():
            return good  # the step had been done before, so the job did nothing
        tail, words = self._read_log(job)
        if words is not None and (status is None or status.exit_code in (None, words["exit_code"])):
            return self.round.settle(words["class"], str(words["message"]), words["exit_code"], tail)
        if self.is_stopping():
            return self.round.settle(outcome.TERMINATED, "the job was ended", tail=tail)
        if status is None:
            return self.round.settle(outcome.INFRA, "the job is gone, and left no record", tail=tail)
        kind, code = status.verdict()
        if status.exit_code == 0:
            image = self._spec["image"]
            message = f"the job ended well and left no record: {image} does not run zen-runner; keep its images' ENTRYPOINT"
        else:
            how = "ended" if status.exit_code is None else f"ended with {status.exit_code}"
            how = "was cancelled" if status.state == CANCELLED else how
            message = f"the job {how} and left no record{f': {status.message}' if status.message else ''}"
        return self.round.settle(kind, message, code, tail)

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
        """Return the job's record if it is there by now, or can be made; see to the log and to what is overdue."""
        now = time.monotonic()
        record = self._remote.round.record()
        self._follow()
        if record is not None:
            return record
        if self._remote.is_stopping():
            self._end(now)
        elif self._timeout is not None and now - self._began > self._timeout:
            return self._give_up(outcome.TIMEOUT, f"ran past its timeout of {self._timeout:g} s, with the waiting for it")
        return self._ask(now) if now >= self._look_at else None

    def _ask(self, now: float) -> Record | None:
        """Ask the platform, and return the record of a job that has ended, or does not begin."""
        status = self._platform.look([self._job]).get(self._job)
        self._look_at = now + self._platform.pace
        self._missed = self._missed + 1 if status is None else 0
        if self._missed >= MISSED or (status is not None and status.state in ENDED):
            return self._remote.bury(self._job, status)
        self._runs = self._runs or self._log is not None or (status is not None and status.state == RUNNING)
        late = self._startup is not None and now - self._began > self._startup
        if self._runs or not late or self._remote.is_stopping():
            return None
        said = f": {status.message}" if status is not None and status.message else ""
        return self._give_up(outcome.INFRA, f"not running after {self._startup:g} s{said}")

    def _give_up(self, kind: str, message: str) -> Record:
        """End the job, whose record is this one then: its own would only say that it was ended."""
        record = self._remote.round.settle(kind, message)
        self._platform.end([self._job])
        return record

    def _end(self, now: float) -> None:
        """Tell the platform to end the job, and once more if it has not when its grace period is over."""
        if self._asked is not None and now - self._asked < self._grace + KILL_AFTER:
            return
        try:
            self._platform.end([self._job])
        except ZenRunnerError as error:
            raise Terminated(f"the job {self._remote.round.name} could not be told to end, and goes on: {error}") from error
        self._asked = now

    def _follow(self) -> None:
        """Pass on the log of the job's attempt from when there is one."""
        attempt = self._remote.round.attempt()
        if attempt is None or self._log is not None:
            return

        def copy() -> None:
            with suppress(ZenRunnerError, OSError):  # what is not passed on is in the store all the same
                for chunk in log_chunks(attempt.store, *attempt.place, follow=True, stop=self._over.is_set):
                    sys.stdout.buffer.write(chunk)
                    sys.stdout.buffer.flush()

        self._log = threading.Thread(target=copy, name="zen-runner log", daemon=True)
        self._log.start()


def run_job(order: Order, is_stopping: Callable[[], bool]) -> Record:
    """Return the record of a step's job, which is started, found or not needed."""
    store, step = open_store(order["store"]), order["step"]
    config = records.get_config(store, order["config"])
    if config is None:
        raise ConfigError(f"the config {order['config']} is not in {store.url}")
    run = Run(with_arguments(config, step, os.environ), order["config"], order["run"], store, os.environ)
    remote = RemoteJob(run, step, order["memory"], is_stopping)
    if good := remote.round.good_result():  # looked for after the round, or a job that ends between the two would have a second
        return good
    job = remote.find()
    if job is None:
        run.enter()
        if (record := remote.round.look_into_cache()) is not None:
            return record
        job = remote.start()
    return Wait(remote, job, config["steps"][step], order["parent"]).wait()


def main(argv: Sequence[str]) -> int:
    """Wait for the job that an order speaks of, leave the record in its answer, and return the exit status."""
    order: Order = wire.loads(argv[1])
    began, started = time.monotonic(), utc()
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: signals.append(number))
    try:
        record = run_job(order, lambda: bool(signals))
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


if __name__ == "__main__":
    sys.exit(main(sys.argv))
