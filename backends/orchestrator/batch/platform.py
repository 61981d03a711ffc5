"""AWS Batch as a platform: one queue, whose jobs are named by run, round and step."""

from __future__ import annotations

from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING, Any

from backends.orchestrator.batch.api import Client
from backends.orchestrator.batch.limits import DESCRIBED
from backends.orchestrator.batch.states import OVER, has_mixed_members, status_of
from backends.platform import JobStatus, Platform

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from backends.platform import Document

LOG_GROUP = "/aws/batch/job"
"""Where Batch's containers log. Source: AWS Batch, "Using CloudWatch Logs"."""


class BatchPlatform(Platform):
    """A job queue of AWS Batch.

    Args:
        region: the region; None for the environment's.
        queue: the queue's name or ARN.
        log_group: the CloudWatch log group; None for Batch's own.
    """

    def __init__(self, region: str | None, queue: str, log_group: str | None) -> None:
        self._region = region
        self._queue = queue
        self._log_group = log_group or LOG_GROUP
        self._definitions: dict[str, Document] = {}
        self._registered: dict[str, str] = {}
        self._ended: dict[str, JobStatus] = {}
        self._calls = 0

    @cached_property
    def client(self) -> Client:
        """The client; made when it is first needed.

        Raises:
            PlacementError: boto3 is not installed.
            ConfigError: no region is known.
        """
        return Client(self._region)

    @property
    def doubtful(self) -> bool:  # type: ignore[override]
        return self.client.doubtful

    def check(self) -> None:
        self.client.check_queue(self._queue)

    def prepare(self, document: Document) -> None:
        self._definitions[document["request"]["jobDefinitionName"]] = document["request"]

    def start(self, document: Document, ids: Mapping[str, str]) -> str:
        request = {**document["request"], "jobDefinition": self._definition(document["request"]["jobDefinition"])}
        if "dependsOn" in request:
            request["dependsOn"] = [{"jobId": ids[edge["jobId"][1:-1]]} for edge in request["dependsOn"]]
        return self.client.submit(document["job"], request)

    def _definition(self, name: str) -> str:
        """Return a job definition with its revision."""
        if name not in self._registered:
            self._registered[name] = self.client.define(self._definitions[name])
        return self._registered[name]

    def find(self, prefix: str) -> dict[str, str]:
        return self.client.submitted(self._queue, prefix)

    def look(self, ids: Collection[str]) -> dict[str, JobStatus]:
        self._calls = 0
        statuses, sizes = self._describe(ids)
        members = {f"{job}:{index}": job for job, size in sizes.items() for index in range(size)}
        for member, status in self._describe(members)[0].items():
            job, _, index = member.rpartition(":")
            statuses[job].members = {**statuses[job].members, index: status}
        # All callers of an account share Batch's rate, so a look at many jobs is a rare one: a call a second at most.
        self.pace = float(max(self._calls, 1))
        return statuses

    def _describe(self, ids: Collection[str]) -> tuple[dict[str, JobStatus], dict[str, int]]:
        """Return what Batch says of jobs, and the sizes of the arrays whose members differ.

        Those that had ended the last time are not asked for again.
        """
        statuses = {job: self._ended[job] for job in ids if job in self._ended}
        open_ids = [job for job in ids if job not in statuses]
        self._calls += ceil(len(open_ids) / DESCRIBED)
        mixed: dict[str, int] = {}
        for detail in self.client.describe(open_ids):
            job = detail["jobId"]
            statuses[job] = status_of(detail)
            if has_mixed_members(detail):
                mixed[job] = detail["arrayProperties"]["size"]
            elif detail["status"] in OVER:
                self._ended[job] = statuses[job]
        return statuses, mixed

    def end(self, ids: Collection[str]) -> None:
        alive = [detail for detail in self.client.describe(sorted(ids)) if detail["status"] not in OVER]
        # The last first: what waits for another must not begin because that one has ended.
        for detail in sorted(alive, key=_created, reverse=True):
            self.client.terminate(detail["jobId"])

    def log(self, job: str, member: int | None = None) -> Iterator[bytes]:
        for detail in self.client.describe([job if member is None else f"{job}:{member}"]):
            attempts = [attempt.get("container") or {} for attempt in detail.get("attempts") or []]
            streams = [container.get("logStreamName") for container in [detail.get("container") or {}, *reversed(attempts)]]
            if stream := next(filter(None, streams), None):
                yield from self.client.log(self._log_group, stream)


def _created(detail: dict[str, Any]) -> int:
    return int(detail.get("createdAt", 0))
