"""One attempt of one step, from its claim to its record; alone in a container, or beside others of a local run.

A `Task` is claimed; what is `Claimed` is given its inputs, and found in the cache or launched; once its process is gone, it is
judged. However far it came, and whatever was raised on the way, it ends in `_close`.

All of it is done in a thread of its own, so that no store, server or disk that is slow holds up the main thread, which alone
serves signals, output, deadlines and heartbeats. A thread that doesn't answer a stop is left to itself.
"""

from __future__ import annotations

import _thread
import os
from time import monotonic

from backends import outcome
from backends.errors import DuplicateError, PlacementError, UserError, ZenRunnerError
from backends.store import keys
from backends.store.claims import AlreadyDone
from backends.store.records import DEAD_AFTER
from entrypoint.runtime import command
from entrypoint.runtime.aside import left_behind
from entrypoint.runtime.blame import CLAIM, PREPARE, PUBLISH, STORE, blame
from entrypoint.runtime.child import STDERR
from entrypoint.runtime.claimed import LOOK_AGAIN
from entrypoint.runtime.inputs import Inputs
from entrypoint.runtime.run import runs_elsewhere
from entrypoint.runtime.stop import SLACK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from backends.store.records import Record
    from entrypoint.runtime.child import Process
    from entrypoint.runtime.claimed import Claimed, Task
    from entrypoint.runtime.gpu.claim import Claim


class Attempt:
    """One attempt; ``begin`` starts it, and `record` is its end.

    Args:
        task: the step.

    Attributes:
        name: the step's.
        record: None until the attempt is over; the supervisor is woken then.
    """

    def __init__(self, task: Task) -> None:
        self.name = task.name
        self.record: Record | None = None
        self._task = task
        self._stop = task.stop
        self._claimed: Claimed | None = None
        self._waiting: Process | None = None  # what waits here for the step's job, which has the claim
        self._gpus: Claim | None = None
        self._no_gpus: ZenRunnerError | None = None
        self._phase = CLAIM
        self._news = b""  # a line of ours, which the main thread passes on among the step's output
        self._end: Record | None = None  # the record on its way to the store
        self._may_close = _thread.allocate_lock()  # whoever has it writes the record: the thread, or who gave it up

    def reserve_gpus(self) -> None:
        """Take the devices that the step asks for; what stands against it is told once the step is claimed."""
        needs, run = self._task.step["resources"], self._task.run
        if needs["gpu"] and self._gpus is None and self._no_gpus is None:
            from entrypoint.runtime.gpu.claim import Claim

            try:
                self._gpus = Claim(self.name, needs, *run.visible_gpus(self.name), run.environ, run.gpus)
            except ZenRunnerError as error:
                self._no_gpus = error

    def begin(self) -> None:
        """Start, in a thread of its own."""
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError as error:
            self.record = self._blame(error)

    def stop(self) -> None:
        """Ask it to stop; the grace period of a process begins."""
        self._stop.ask()
        if (process := self._process()) is not None:
            process.stop("terminated")

    def _process(self) -> Process | None:
        return self._claimed.meter.process if self._claimed is not None else self._waiting

    def look(self) -> float | None:
        """Give up on a thread that doesn't answer; return the time of the monotonic clock at which to look again, if any."""
        if self._news:
            line, self._news = self._news, b""
            self._task.output(STDERR, line)
        claimed, process = self._claimed, self._process()
        if self.record is not None or (process is not None and not process.is_gone):
            return None
        due, end = self._stop.due(), self._stop.end()
        if end is not None and monotonic() >= end:
            left_behind.append(self.name)
            self._over(self._unstored())
            return None
        if due is None or self._may_close.locked():
            return end
        if monotonic() < due + SLACK:
            return due + SLACK if end is None else min(due + SLACK, end)
        try:
            self._stop.check()
        except ZenRunnerError as error:
            if self._may_close.acquire(False):
                left_behind.append(self.name)
                _thread.start_new_thread(self._end_with, (claimed, self._blame(error)))
        return end

    def _run(self) -> None:
        record = self._carry_out()
        if self._may_close.acquire(False):
            self._close(record)
        elif self._claimed is not None:
            self._claimed.silent()  # it was given up on, perhaps before it had claimed

    def _carry_out(self) -> Record:
        """Return how the attempt ended, whatever is raised on the way."""
        try:
            self._stop.check()
            if runs_elsewhere(self._task.step):
                return self._wait_elsewhere()
            claimed = self._claimed = self._claim()
            self._phase = PREPARE
            self._stop.enter("to fetch its inputs")
            self._stop.check()
            inputs = self._prepare(claimed)
            if self._task.step["cache"]:
                from entrypoint.runtime import cached

                if (record := cached.look(claimed, inputs, check=self._stop.check)) is not None:
                    return record
            self._stop.check()
            process = command.launch(claimed, inputs)
            self._stop.enter("to end", has_grace=True, has_timeout=False)  # its process has a timeout of its own
            if self._stop.end() is not None:  # it was asked for after the last look and before the process was known
                process.stop("terminated")
            from entrypoint.runtime import verdict  # loaded while the step's interpreter starts

            process.wait()
            self._phase = PUBLISH
            self._stop.enter("to publish its outputs", has_grace=True)
            return verdict.judge(claimed, inputs, process, check=self._stop.check)
        except AlreadyDone as done:
            return self._sound(done.record)
        except BaseException as error:  # noqa: BLE001 - it must end the attempt, for whose record somebody waits
            return self._blame(error)

    def _wait_elsewhere(self) -> Record:
        """Have the step run as a job of its training platform, and return the record that the job wrote."""
        from entrypoint.runtime.waiting import Waiting

        waiting = Waiting(self._task)
        self._waiting = waiting.process
        self._stop.enter("to end", has_grace=True, has_timeout=False)  # the process there keeps the timeout
        if self._stop.end() is not None:  # it was asked for after the last look and before the process was known
            waiting.process.stop("terminated")
        waiting.process.wait()
        return waiting.record()

    def _claim(self) -> Claimed:
        """Claim the step; while another holds it of whom nobody knows yet whether it lives, wait and look again."""
        is_known = False
        while (claimed := self._task.claim()) is None:
            if not is_known:
                is_known = True
                line = f"another process holds steps.{self.name}; for up to {DEAD_AFTER:.0f} s its heartbeat is watched"
                self._news = f"zen-runner: {line}\n".encode()
                self._task.supervisor.wake()
            self._stop.wait(LOOK_AGAIN)
        return claimed

    def _sound(self, record: Record) -> Record:
        """Return a record of the store, which anybody could have written, if it is one."""
        if all(name in record for name in ("attempt", "class", "exit_code", "message", "outputs", "seconds", "values")):
            return {**record, "run": self._task.run.run, "step": self.name}
        where = f"{self._task.run.store.url}/{keys.run(self._task.run.run)}/{self.name}"
        return self._blame(UserError(f"a result.json in {where} is no record of zen-runner's; remove it"))

    def _blame(self, error: BaseException) -> Record:
        task = self._task
        kind, message, code = blame(error, self._phase, task.run.config, task.run.environ)
        claimed = self._claimed
        return task.record(kind, message, code) if claimed is None else claimed.record(kind, message, code)

    def _prepare(self, claimed: Claimed) -> Inputs:
        """Check what the step needs, and fetch its inputs."""
        self._check_placement(claimed)
        for folder in (claimed.scratch, claimed.file("out")):
            try:
                os.mkdir(folder, 0o755)
            except FileExistsError:
                pass
        inputs = Inputs(claimed.task.run, claimed.task.name)
        inputs.fetch(claimed, check=self._stop.check)
        return inputs

    def _check_placement(self, claimed: Claimed) -> None:
        needs, group = self._task.step["resources"], self._task.run.group
        if needs["memory"]:
            limit = group.limit() if group is not None else None
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            if limit is not None:
                memory = min(memory, limit)
            if needs["memory"] > memory:
                raise PlacementError(
                    f"steps.{self.name}.resources.memory asks for {needs['memory']} bytes, and there are {memory} here"
                )
        self.reserve_gpus()
        if self._no_gpus is not None:
            raise self._no_gpus
        claimed.meter.gpus = self._gpus

    def _end_with(self, claimed: Claimed | None, record: Record) -> None:
        """Write the record; from whichever thread has the right to."""
        self._end = record
        self._release_gpus(claimed)
        self._over(record if claimed is None else self._closed(claimed, record))

    def _close(self, record: Record) -> None:
        self._phase = STORE
        self._stop.enter("to store its record", has_grace=True, has_timeout=False)
        self._end_with(self._claimed, record)

    def _release_gpus(self, claimed: Claimed | None) -> None:
        """Let other steps have devices that the attempt never came to use; `_close` sees to others."""
        if self._gpus is not None and (claimed is None or claimed.meter.gpus is None):
            self._gpus.release()
            self._gpus = None

    def _closed(self, claimed: Claimed, record: Record) -> Record:
        """Return the attempt's record once it is stored; one that can't be is replaced by one that says why."""
        try:
            return _close(claimed, record)
        except BaseException as error:  # noqa: BLE001 - somebody waits for the record
            record = self._blame(error)
        try:
            return _close(claimed, record)
        except BaseException:  # noqa: BLE001 - the first failure is the one to tell
            return record

    def _unstored(self) -> Record:
        """Return the record of an attempt that was stopped, and whose record did not get into the store in time."""
        record = self._end
        if record is None or record["class"] == outcome.SUCCESS:
            number, claimed = outcome.code_of(outcome.TERMINATED), self._claimed
            message = "stopped before its record could be stored"
            of = self._task if claimed is None else claimed
            return of.record(outcome.TERMINATED, message, number)
        return {**record, "message": f"{record['message']} (and its record could not be stored in time)"}

    def _over(self, record: Record) -> None:
        if self.record is None:
            self.record = record
            self._task.supervisor.wake()


def _close(claimed: Claimed, record: Record) -> Record:
    """Write the record last, when all else is in the store, and clean up."""
    run, meter, process = claimed.task.run, claimed.meter, claimed.meter.process
    if claimed.framework is not None:
        from entrypoint.runtime import processing

        processing.add_counts(claimed, claimed.framework, record)
    if meter.gpus is not None:
        meter.gpus.release()
    if process is not None and record["class"] != outcome.SUCCESS:
        record["log_tail"] = process.tail.decode("utf-8", "replace")
    if process is not None and (process.reason is not None or claimed.framework is not None):
        # What left the process group, as Spark's Python workers do, is still known by its environment.
        from backends.store import autopsy

        autopsy.kill_processes(claimed.attempt.token)
    try:
        claimed.publish(record)
        if claimed.cache_key is not None and record["class"] == outcome.SUCCESS and record["cached_from"] is None:
            from backends.store.cache import cache_put

            cache_put(run.store, claimed.cache_key, record)
    except ZenRunnerError as error:
        if record["class"] == outcome.SUCCESS or isinstance(error, DuplicateError):
            record = {**record, "class": error.outcome_class, "exit_code": error.exit_code, "message": str(error)}
        else:
            record["message"] += f" (and its record could not be stored: {error})"
        return record  # the scratch directory stays: the next attempt here can still save the log
    finally:
        if meter.group is not None and meter.group is not run.group:
            meter.group.remove()
    from entrypoint.runtime import leftovers

    leftovers.clear(claimed, record)
    return record
