"""One attempt of one step, from its claim to its record; alone in a container, or beside others of a local run.

A `Task` is claimed; what is `Claimed` is given its inputs, found in the cache or launched; what is `Running` is judged. However
far it came, it ends in `_close`.
"""

from __future__ import annotations

import os

from backends import outcome
from backends.errors import PlacementError, Terminated, ZenRunnerError
from backends.store.cache import cache_put
from backends.store.claims import AlreadyDone
from entrypoint.runtime import cached, command, leftovers, verdict
from entrypoint.runtime.inputs import Inputs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from backends.store.records import Record
    from entrypoint.runtime.child import Process
    from entrypoint.runtime.claimed import Claimed, Task


class Running:
    """An attempt whose process runs, or has ended: the supervisor tells."""

    def __init__(self, claimed: Claimed, inputs: Inputs, process: Process) -> None:
        self.name = claimed.task.name
        self.process = process
        self._claimed = claimed
        self._inputs = inputs

    def stop(self) -> None:
        """Ask the process to end; its grace period begins."""
        self.process.stop("terminated")

    def finish(self) -> Record:
        """Publish what the ended process left, and return its record."""
        claimed = self._claimed
        try:
            record = verdict.judge(claimed, self._inputs, self.process)
        except ZenRunnerError as error:
            record = claimed.record(error.outcome_class, str(error), error.exit_code)
        except OSError as error:
            record = claimed.record(outcome.INFRA, f"could not publish the step's outputs: {error}")
        return _close(claimed, record)


def start(task: Task) -> Running | Record:
    """Claim a step and start its process; return a record instead where it is over before it began."""
    try:
        claimed = task.claim()
    except AlreadyDone as done:
        return done.record
    except ZenRunnerError as error:
        return task.record(error.outcome_class, str(error), error.exit_code)
    try:
        inputs = _prepare(claimed)
        record = cached.look(claimed, inputs) if task.step["cache"] else None
        if record is None:
            return Running(claimed, inputs, command.launch(claimed, inputs))
    except ZenRunnerError as error:
        record = claimed.record(error.outcome_class, str(error), error.exit_code)
    except OSError as error:
        record = claimed.record(outcome.INFRA, f"could not prepare the step: {error}")
    return _close(claimed, record)


def _prepare(claimed: Claimed) -> Inputs:
    """Check what the step needs, and fetch its inputs."""
    _check_placement(claimed)
    if claimed.task.supervisor.stopped_by is not None:
        raise Terminated("stopped before the step began")
    for folder in (claimed.scratch, claimed.file("out")):
        try:
            os.mkdir(folder, 0o755)
        except FileExistsError:
            pass
    inputs = Inputs(claimed)
    inputs.fetch()
    return inputs


def _check_placement(claimed: Claimed) -> None:
    task, run = claimed.task, claimed.task.run
    needs = task.step["resources"]
    if needs["memory"]:
        limit = run.group.limit() if run.group is not None else None
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if limit is not None:
            memory = min(memory, limit)
        if needs["memory"] > memory:
            raise PlacementError(
                f"steps.{task.name}.resources.memory asks for {needs['memory']} bytes, and there are {memory} here"
            )
    if needs["gpu"]:
        from entrypoint.runtime.gpu.claim import Claim

        claimed.meter.gpus = Claim(task.name, needs, *run.visible_gpus(task.name), run.environ, run.gpus)


def _close(claimed: Claimed, record: Record) -> Record:
    """Write the record last, when all else is in the store, and clean up."""
    run, meter, process = claimed.task.run, claimed.meter, claimed.meter.process
    claimed.silent()
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
            cache_put(run.store, claimed.cache_key, record)
    except ZenRunnerError as error:
        if record["class"] == outcome.SUCCESS:
            record = {**record, "class": error.outcome_class, "exit_code": error.exit_code, "message": str(error)}
        else:
            record["message"] += f" (and its record could not be stored: {error})"
        return record  # the scratch directory stays: the next attempt here can still save the log
    finally:
        if meter.group is not None and meter.group is not run.group:
            meter.group.remove()
    leftovers.clear(claimed, record)
    return record
