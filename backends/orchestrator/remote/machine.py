"""Orchestrators that run a whole pipeline in one container or on one machine, with the driver inside."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from backends import outcome
from backends.errors import ZenRunnerError
from backends.orchestrator.remote.backend import RemoteBackend, Sending
from backends.orchestrator.remote.job import Job, Names
from backends.outcome import INFRA, TERMINATED
from backends.platform import WHOLE_RUN, JobStatus
from backends.states import CANCELLED, ENDED, FAILED, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

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
        """Return the one document: the machine, or the container. It has what the most demanding step asks for.

        Args:
            config: the resolved config, shipped or not.
            run_id: the run's id.
            done: steps that have a good result already; the driver inside sees that itself.
            number: the round.
        """
        steps = config["steps"]
        names = Names(self.rule, config["store"], run_id, number)
        env = self.environments(config, run_id, {"": next(iter(steps))})[""]
        most = {name: max(spec["resources"][name] or 0 for spec in steps.values()) for name in ("cpu", "memory", "gpu")}
        job = Job(
            key="",
            name=names.of("machine"),
            run=run_id,
            pipeline=config["name"],
            image=config["image"],
            env=env,
            secrets=config["secrets"],
            cpu=most["cpu"] or None,
            memory=most["memory"] or None,
            gpu=most["gpu"],
            timeout=self.deadline,
            retry={"limit": 0, "on": []},  # the driver inside tries its steps again
        )
        return [self.render_machine(job)]

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
        machine = _find(platform, state)
        if machine is None:
            return {}
        status = platform.look([machine]).get(machine)
        if status is None:
            why = f"the platform knows nothing of {machine!r} any more; cancel the run, and submit it again to resume it"
            return {WHOLE_RUN: JobStatus(UNKNOWN, why)}
        if status.state not in ENDED:
            return {WHOLE_RUN: status}
        # It has ended, and its driver has not written how the run did.
        why = status.message or ("it gives no reason" if status.exit_code is None else f"exit status {status.exit_code}")
        message = f"{machine} ended before its run had: {why}; a run with the same run id resumes"
        kind = _kind_of(status)
        return {WHOLE_RUN: JobStatus(CANCELLED if kind == TERMINATED else FAILED, message, kind=kind)}

    def end(self, platform: Platform, state: Mapping[str, Any]) -> None:
        if machine := _find(platform, state):
            platform.end([machine])

    def platform_log(self, platform: Platform, state: Mapping[str, Any], step: str) -> Iterator[bytes]:
        """Yield what the machine printed, which is its driver's log; a step's own is in the store alone."""
        machine = _find(platform, state) if step == WHOLE_RUN else None
        return iter(()) if machine is None else platform.log(machine)


def _find(platform: Platform, state: Mapping[str, Any]) -> str | None:
    """Return the machine's id; by its name where the answer to its start was lost, or who got it has died."""
    if "name" not in state:
        return None
    return state.get("machine") or platform.find(state["name"]).get(state["name"])


def _kind_of(status: JobStatus) -> str:
    """Return the class of a run whose machine ended early: one in which a machine can end, or that no other try would change."""
    if status.kind is not None:
        return status.kind
    if status.state == CANCELLED or (status.exit_code is not None and outcome.row_of(status.exit_code).retry == "never"):
        return status.verdict()[0]
    return INFRA
