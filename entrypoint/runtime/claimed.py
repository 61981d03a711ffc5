"""A step that this process is to attempt, and then owns: its claim, its signs of life, its log."""

from __future__ import annotations

import os
from time import monotonic

from backends import outcome
from backends.errors import InfraError, Terminated, ZenRunnerError
from backends.process import utc
from backends.store import claims, keys, records
from entrypoint.runtime.logs import Log, Uploader
from entrypoint.runtime.meter import Meter
from entrypoint.runtime.run import kind_of
from entrypoint.runtime.stop import Stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from backends.store.records import Record
    from entrypoint.runtime.child import Process
    from entrypoint.runtime.run import Run
    from entrypoint.runtime.supervise import Supervisor

LOOK_AGAIN = 1.0  # seconds between two looks at another's attempt
_STOPPED = "stopped while it watched whether another attempt at the step still lives"
PUBLISH_FOR = 30.0  # seconds in which a result that could not be stored is tried again


class Task:
    """A step that this process is to attempt.

    Args:
        run: what it shares with others.
        name: the step.
        supervisor: who watches its process.
        output: gets (stream, bytes) beside the log.
        memory: bytes that this attempt may use, enforced where a control group can be made; None for what the container has.
        alone: this is the only step in this control group, so that its out-of-memory counter speaks of this step.
    """

    def __init__(
        self,
        run: Run,
        name: str,
        supervisor: Supervisor,
        output: Callable[[int, bytes], None],
        *,
        memory: int | None = None,
        alone: bool = True,
    ) -> None:
        self.run = run
        self.name = name
        self.step: dict[str, Any] = run.config["steps"][name]
        self.kind = kind_of(self.step)
        self.supervisor = supervisor
        self.output = output
        self.memory = memory
        self.alone = alone
        self.stop = Stop(supervisor, self.step)
        self._candidate: claims.Candidate | None = None
        self._scratch: str | None = None  # where the store's own folder can't be one
        self._started = utc()
        self._began = monotonic()

    def record(
        self,
        kind: str,
        message: str,
        code: int | None = None,
        *,
        attempt: int = 0,
        process: Process | None = None,
        inputs: Mapping[str, str] | None = None,
        usage: Mapping[str, Any] | None = None,
    ) -> Record:
        """Return the record of an attempt that ends now; without an ``attempt``, of one that never began."""
        record = records.make_record(
            self.run.run,
            self.name,
            attempt,
            kind,
            message,
            code=code,
            started=self._started,
            seconds=round(monotonic() - self._began, 3),
            status=process.status if process is not None else None,
            signal=process.signal if process is not None else None,
            inputs=inputs,
            config=self.run.sha,
            usage=usage,
        )
        record["platform"] = self.run.platform
        record["image"] = self.run.image_digest
        return record

    def claim(self) -> Claimed | None:
        """Make this process the owner of the step.

        Returns:
            The step as this process owns it. None while another holds it of whom nobody knows yet whether it lives: ask again
            about once a second.

        Raises:
            AlreadyDone: there is nothing to do.
            DuplicateError: another live attempt holds the step.
            InfraError: the store could not be reached.
            Terminated: a stop signal came while this waited for another.
        """
        if self._candidate is None:
            self._refuse_retry()
            self._candidate = claims.Candidate(self.run.store, self.run.run, self.name, self._owner())
        try:
            if self._candidate.is_waiting and self.stop.is_due():
                raise Terminated(_STOPPED)
            attempt = self._candidate.claim()
        except BaseException:
            self._forget_scratch()
            raise
        if attempt is None:
            return None
        store = self.run.store
        return Claimed(self, attempt, self._scratch or store.url_of(keys.scratch(*attempt.place)))

    def _owner(self) -> dict[str, Any]:
        """Return what the claim says beside who makes it."""
        run = self.run
        owner: dict[str, Any] = {"config": run.sha, "platform": run.platform}
        if run.group is not None:
            owner["cgroup"] = run.group.path
            owner["oom_kill"] = run.group.oom_kills()
        if run.store.root is None:
            import tempfile

            owner["scratch"] = self._scratch = tempfile.mkdtemp(prefix=keys.SCRATCH)
        return owner

    def _forget_scratch(self) -> None:
        """Remove the scratch directory that was made for a claim which did not come about."""
        if self._scratch is not None:
            os.rmdir(self._scratch)
            self._scratch = None

    def _refuse_retry(self) -> None:
        """End as the last attempt did where the platform repeats any that failed, and this one should not be repeated.

        Both have the platform's same name then; another submission, or a person's retry, gives another or starts anew.
        """
        run = self.run
        if run.environ.get("ZEN_RUNNER_RETRY") != "any" or run.environ.get("KFP_RETRY_INDEX") == "0":
            return
        numbers = records.attempts(run.store, run.run, self.name)
        last = records.result(run.store, run.run, self.name, numbers[-1]) if numbers else None
        if last is None or last["class"] == outcome.SUCCESS or last.get("platform") != run.platform:
            return
        if not outcome.is_retried(last["class"], last["exit_code"], self.step["retry"]["on"]):
            raise claims.AlreadyDone(last)


class Claimed:
    """A step that this process owns; it says that it lives until its end is published.

    Args:
        task: the step.
        attempt: the claim.
        scratch: a directory of the attempt's own, which need not be there yet.

    Attributes:
        digests: of the inputs that it has by now, by name.
        meter: what it uses.
        framework: what it runs on beside Python, ``beam`` or ``spark``, once that is known.
        cache_key: where its success is to be found by others.
    """

    def __init__(self, task: Task, attempt: claims.Attempt, scratch: str) -> None:
        self.task = task
        self.attempt = attempt
        self.scratch = scratch
        self.digests: dict[str, str] = {}
        self.meter = Meter()
        self.framework: str | None = None
        self.cache_key: str | None = None
        self._is_fenced = False
        self._uploader: Uploader | None = None
        store = task.run.store
        if store.root is not None:
            self._log = Log(os.path.join(store.root, keys.logs(*attempt.place)))
        else:
            self._log = Log(os.path.join(scratch, "log"))
            self._uploader = Uploader(store, attempt, self._log, self._beat, records.HEARTBEAT_EVERY)
        task.supervisor.beat(records.HEARTBEAT_EVERY, self._tick)

    def file(self, name: str) -> str:
        """Return the path of a file in the scratch directory."""
        return os.path.join(self.scratch, name)

    def record(self, kind: str, message: str, code: int | None = None) -> Record:
        """Return the record of this attempt if it ends now."""
        number, process = self.attempt.number, self.meter.process
        return self.task.record(
            kind, message, code, attempt=number, process=process, inputs=self.digests, usage=self.meter.read()
        )

    def print(self, stream: int, data: bytes) -> None:
        """Pass on what the step prints, and keep it."""
        self.task.output(stream, data)
        (self._uploader or self._log).write(data)

    def publish(self, record: Record) -> None:
        """Bring the rest of the log into the store, and the record last; the attempt beats meanwhile, and no more thereafter.

        What is finished is worth some patience: if the store does not take it, it is asked again for half a minute.

        Raises:
            DuplicateError: the attempt was declared dead before.
            InfraError: the store could not be written.
        """
        until = monotonic() + PUBLISH_FOR
        pause = 0.5
        try:
            while True:
                try:
                    self._publish(record)
                    return
                except InfraError:
                    if monotonic() + pause > until or self.task.stop.is_due():
                        raise
                self.task.stop.wait(pause)
                pause = min(4.0, 2 * pause)
        finally:
            if self._uploader is not None:
                self._uploader.close()
            self.silent()

    def silent(self) -> None:
        """Say no more that this attempt lives."""
        self.task.supervisor.unbeat(self._tick)

    def _publish(self, record: Record) -> None:
        if self._uploader is not None:
            self._uploader.flush()
        if self._log.lost is not None:
            record["log_lost"] = str(self._log.lost)
        self.attempt.finish(record)

    def _beat(self) -> None:
        """Tell the store that this attempt lives; learn whether another took over."""
        try:
            if not self.attempt.heartbeat({"usage": self.meter.read()}):
                self._is_fenced = True
        except (ZenRunnerError, OSError):
            pass  # a store that is away for a while is no reason to stop; the end of the step tells

    def _tick(self) -> None:
        if self._uploader is None:
            self._beat()
        if self._is_fenced and self.meter.process is not None:
            self.meter.process.stop("fenced")
