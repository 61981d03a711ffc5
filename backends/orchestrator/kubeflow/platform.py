"""A Kubeflow Pipelines server as a platform: one run of it per run of ours, known again by its description."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from backends.orchestrator.kubeflow import api
from backends.orchestrator.kubeflow.states import OVER, STATES
from backends.platform import JobStatus, Platform
from backends.states import PENDING, RUNNING, SKIPPED, SUCCEEDED

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from backends.platform import Document


class Options(api.Options, Protocol):
    """What the platform has of the backend's arguments."""

    experiment: str


class KubeflowPlatform(Platform):
    """A server of Kubeflow Pipelines 2.

    Args:
        options: the backend's arguments.
    """

    def __init__(self, options: Options) -> None:
        self._options = options

    @cached_property
    def client(self) -> api.Client:
        """The client; made when it is first needed.

        Raises:
            PlacementError: kfp is not installed.
            ConfigError: the server is none, or refuses.
            InfraError: it can't be reached.
        """
        return api.Client(self._options)

    @cached_property
    def _experiment(self) -> str:
        return self.client.find_experiment(self._options.experiment)

    def check(self) -> None:
        _ = self._experiment

    def start(self, document: Document, ids: Mapping[str, str]) -> str:
        return self.client.create_run(document["name"], document["note"], self._experiment, document["documents"])

    def find(self, prefix: str) -> dict[str, str]:
        """Return the ids of the runs of a name, by their notes: the name alone does not say whose a run is."""
        return self.client.find_runs(prefix, self._experiment)

    def look(self, ids: Collection[str]) -> dict[str, JobStatus]:
        return {run: _status_of(self.client.get_run(run)) for run in ids}

    def end(self, ids: Collection[str]) -> None:
        for run in ids:
            self.client.terminate_run(run)


def _status_of(run: Any) -> JobStatus:
    """Return what the server says of a run, with its tasks as members by their names."""
    details = (run.run_details and run.run_details.task_details) or []
    # A task counts as running from its first pod on, which is not the step's: that is the one named executor.
    runs = any(detail.display_name.startswith("executor") and detail.state == "RUNNING" for detail in details)
    members = {}
    for detail in details:
        state = STATES.get(detail.state, SKIPPED if run.state in OVER else PENDING)
        if state == RUNNING and not runs:
            state = PENDING
        exit_code = 0 if state == SUCCEEDED else None
        members[detail.display_name] = JobStatus(state, api.reason(detail.error), exit_code=exit_code)
    return JobStatus(STATES.get(run.state, PENDING), api.reason(run.error), members=members)
