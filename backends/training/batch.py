"""Training on AWS Batch: the step is one job of a queue, wherever the pipeline runs."""

from __future__ import annotations

from backends import arguments
from backends.base import TrainingBaseBackend
from backends.orchestrator.batch import OrchestratorBatchBackend
from backends.orchestrator.batch.limits import NAME, OVERRIDES
from backends.orchestrator.remote.job import Names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Literal

    from backends.orchestrator.remote.job import Job
    from backends.platform import Document, Platform
    from backends.store.base import Store

ONCE = {"limit": 0, "on": ()}
"""Batch makes one attempt; whoever waits for it tries again, with more memory where that is what it lacked."""


class TrainingBatchBackend(TrainingBaseBackend):
    """Trains as a job of AWS Batch.

    Args: as for the orchestrator of this name, but for
        startup_timeout: seconds that the job may take until it runs; None for ever.
    """

    limits = OVERRIDES
    rule = NAME

    def __init__(
        self,
        queue: str,
        region: str | None = None,
        job_role: str | None = None,
        execution_role: str | None = None,
        platform: Literal["EC2", "FARGATE"] = "EC2",
        vcpu: float = 1.0,
        memory: str = "2Gi",
        ephemeral_storage: int | None = None,
        assign_public_ip: bool = False,
        mounts: list[str] | None = None,
        user: str | None = None,
        env: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
        log_group: str | None = None,
        share_identifier: str | None = None,
        priority: int | None = None,
        attempt_timeout: int | None = None,
        startup_timeout: float | None = 3600.0,
    ) -> None:
        arguments.refuse(arguments.positive(startup_timeout=startup_timeout))
        self.startup_timeout = startup_timeout
        self._batch = OrchestratorBatchBackend(**self.args)  # which has all of these, and the checks of them

    def runs_here(self) -> bool:
        return False

    def mounts(self) -> list[str]:
        return self._batch.mounts()

    def count_variables(self, env: Mapping[str, str]) -> int:
        return self._batch.count_variables(env)

    def render_job(self, job: Job, config: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> list[Document]:
        names = Names(NAME, config["store"], job.run, 1)  # of fan-in jobs, which a job that waits for none has not
        return self._batch.render_jobs([job._replace(retry=ONCE)], names)

    def platform(self, store: Store) -> Platform:
        return self._batch.platform(store)
