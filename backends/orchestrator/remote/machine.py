"""Orchestrators that run a whole pipeline in one container or on one machine, with the driver inside."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from backends.errors import ZenRunnerError
from backends.orchestrator.remote.backend import RemoteBackend, Sending
from backends.orchestrator.remote.job import Names, job_of
from backends.outcome import INFRA, TERMINATED
from backends.platform import WHOLE_RUN, JobStatus
from backends.states import CANCELLED, FAILED, PENDING, SUCCEEDED, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from backends.orchestrator.remote.job import Job
    from backends.platform import Document, Platform


class MachineBackend(RemoteBackend):
    """An orchestrator that runs the whole pipeline in one container, where the identical image drives it.

    A backend writes ``render_machine`` and ``platform``. The run's state is told by ``run.json`` and the steps' records, which
    the driver inside writes; the platform is asked only whether the machine lives. The handle's state is ``{"round", "name",
    "machine": id}``.
    """

    runs_a_driver = True

    @abstractmethod
    def render_machine(self, job: Job) -> Document:
        """Return what the platform is asked to start: one container that runs the whole pipeline, under the job's name."""

    def render(
        self, config: Mapping[str, Any], run_id: str = "RUN", done: Collection[str] = frozenset(), number: int = 1
    ) -> list[Document]:
        """Return the one document: the machine, or the container.

        Args:
            config: the resolved config, shipped or not.
            run_id: the run's id.
            done: steps that have a good result already; the driver inside sees that itself.
            number: the round.
        """
        first = next(iter(config["steps"]))
        names = Names(self.rule, config["store"], run_id, number)
        env = self.environments(config, run_id, {"": first})[""]
        spec = {**config["steps"][first], "image": config["image"], "timeout": None}
        job = job_of(config, "", spec, run_id)
        return [self.render_machine(job._replace(name=names.of("machine"), env=env))]

    def send(self, sending: Sending) -> None:
        platform, state = sending.platform, sending.state
        if "machine" in state:
            return
        name = Names(self.rule, sending.config["store"], sending.run, state["round"]).of("machine")
        [document] = self.render(sending.config, sending.run, sending.done, state["round"])
        begun = "name" in state
        state["name"] = name
        sending.save()  # from here on, whoever comes after this process looks for the machine by its name
        try:
            state["machine"] = platform.find(name).get(name) or platform.start(document, {})
        except ZenRunnerError:
            if not platform.doubtful and not begun:  # nothing was started
                del state["name"]
            raise
        sending.save()

    def statuses(self, platform: Platform, state: Mapping[str, Any]) -> dict[str, JobStatus]:
        if "machine" not in state:
            return {WHOLE_RUN: JobStatus(PENDING if "name" not in state else UNKNOWN)}
        status = platform.look([state["machine"]]).get(state["machine"])
        if status is None:
            return {WHOLE_RUN: JobStatus(UNKNOWN, f"the platform knows nothing of {state['machine']!r} any more")}
        if status.state not in (SUCCEEDED, FAILED, CANCELLED):
            return {WHOLE_RUN: status}
        # It has ended, and its driver has not written how the run did.
        kind = status.kind or (TERMINATED if status.state == CANCELLED else INFRA)
        why = status.message or "it gives no reason"
        message = f"{state['machine']} ended before its run had: {why}; a run with the same run id resumes"
        return {WHOLE_RUN: JobStatus(CANCELLED if kind == TERMINATED else FAILED, message, kind=kind)}

    def end(self, platform: Platform, state: Mapping[str, Any]) -> None:
        if "name" not in state:
            return
        if machine := state.get("machine") or platform.find(state["name"]).get(state["name"]):
            platform.end([machine])

    def platform_log(self, platform: Platform, state: Mapping[str, Any], step: str) -> Iterator[bytes]:
        return platform.log(state["machine"]) if "machine" in state else iter(())
