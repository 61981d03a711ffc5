"""An attempt whose step runs as a job of a platform: a process here waits for it, under the same supervisor as any step's."""

from __future__ import annotations

import os
import sys

from backends import outcome, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypedDict

    from backends.store.records import Record
    from entrypoint.runtime.claimed import Task

    class Order(TypedDict):
        """What the process that waits is told.

        Args:
            store: the URL of the artifact store.
            config: the resolved config's sha256; the config is in the store.
            run: the run's id.
            step: the step.
            memory: of this attempt in bytes; None for what the config says.
            parent: the process that wants to know; nobody waits any more once it is gone.
            answer: the file that the record is written to.
        """

        store: str
        config: str
        run: str
        step: str
        memory: int | None
        parent: int
        answer: str


PATIENCE = 60.0
"""Seconds, beside the step's grace period, that a job has to end once it was asked to."""
ANSWER = "record.json"


def announcement(step: str) -> str:
    """Return how the line begins that says on which platform a step runs, and what that calls the job."""
    return f"zen-runner: steps.{step} runs on "


class Waiting:
    """An attempt that runs elsewhere; it has no claim here, for the job has it.

    Args:
        task: the step.

    Attributes:
        process: waits for the job.

    Raises:
        OSError: what waits for it can't be started.
    """

    def __init__(self, task: Task) -> None:
        import tempfile

        self._task = task
        self._folder = tempfile.mkdtemp(prefix="zen-runner-")
        run = task.run
        order: Order = {
            "store": run.store.url,
            "config": run.sha,
            "run": run.run,
            "step": task.name,
            "memory": task.memory,
            "parent": os.getpid(),
            "answer": os.path.join(self._folder, ANSWER),
        }
        argv = [sys.executable, "-P", "-m", "entrypoint.runtime.remote_job", wire.dumps(order)]
        # The timeout is kept there, where the difference between it and a cancelled run is known.
        grace = task.step["grace_period"] + PATIENCE
        self.process = task.supervisor.spawn(argv, run.environ, output=task.output, grace=grace)

    def record(self) -> Record:
        """Return the record that the job wrote, or that was made of what its platform says; the process has ended."""
        import shutil

        try:
            with open(os.path.join(self._folder, ANSWER), "rb") as file:
                record: Record = wire.loads(file.read())
        except (OSError, ValueError):
            record = self._lost()
        shutil.rmtree(self._folder, ignore_errors=True)
        return record

    def _lost(self) -> Record:
        process = self.process
        ending = f"what waited for the job ended with {process.status} before the job did"
        if process.reason is not None:
            return self._task.record(outcome.TERMINATED, f"{ending}; `cancel` ends one that goes on")
        return self._task.record(outcome.INFRA, f"{ending}; it goes on, and the next attempt finds it")
