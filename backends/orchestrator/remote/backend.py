"""What all orchestrators share whose platform runs the steps and keeps their order: AWS Batch, Kubeflow, …

The base ships the code, keeps the handle, sees to it that a run is submitted once whoever crashes, asks how it goes and waits for
its end. A backend says how its platform is asked: ``render``, ``_submit``, ``_status``, ``_cancel``, ``_logs``.

What a step did is told by its record in the store; the platform is asked only for what has no record.
"""

from __future__ import annotations

from abc import abstractmethod

from backends import outcome, wire
from backends.base import UNKNOWN, OrchestratorBaseBackend
from backends.config import transport
from backends.errors import UsageError, ZenRunnerError
from backends.orchestrator.remote.picture import ENDED
from backends.orchestrator.remote.submission import Submission
from backends.orchestrator.remote.wait import Wait
from backends.orchestrator.remote.watch import Watch
from backends.platform import JobStatus
from backends.process import utc
from backends.shipping.shipment import ship, upload
from backends.store import keys, records
from backends.store.records import read_handle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from typing import Any, ClassVar

    from backends.config.transport import Carried, Limits
    from backends.execution import Execution, Report
    from backends.store.base import Store

    Handle = dict[str, Any]


class OrchestratorRemoteBackend(OrchestratorBaseBackend):
    """An orchestrator whose platform runs the steps and keeps their order.

    Attributes:
        limits: what the platform holds of a config.
        startup_timeout: seconds for which nothing may run and nothing change while a step that could run is pending; then the
            run is cancelled. None for ever. A backend makes this an argument of its own.
        deadline: seconds from the submission after which the run is cancelled; None for ever. The same.
        poll_first: seconds between two questions to the platform at first, and again after each change.
        poll_most: the most seconds between two.
        blind_timeout: seconds for which the run's state may be unknown while somebody waits for its end.
        cancel_timeout: seconds, beside the steps' grace period, that a cancelled run has to end.
    """

    limits: ClassVar[Limits]
    startup_timeout: float | None = 1800.0
    deadline: float | None = None
    poll_first: float = 1.0
    poll_most: float = 15.0
    blind_timeout: float = 600.0
    cancel_timeout: float = 120.0

    # -- what a backend says --------------------------------------------------------------------------------------------------

    @abstractmethod
    def render(self, config: Mapping[str, Any], run_id: str = "RUN", done: Collection[str] = frozenset()) -> list[dict[str, Any]]:
        """Return the documents that this backend hands to its platform; pure, offline and deterministic.

        Args:
            config: the resolved config, shipped or not.
            run_id: the run's id.
            done: steps that have a good result already; they are left out, and so is the waiting for them.
        """

    @abstractmethod
    def _submit(
        self,
        config: Mapping[str, Any],
        documents: list[dict[str, Any]],
        run_id: str,
        store: Store,
        state: dict[str, Any],
        save: Callable[[], None],
    ) -> None:
        """Hand the documents to the platform, and complete what an earlier call with this state has begun.

        Args:
            config: the shipped config.
            documents: what ``render`` made of it.
            run_id: the run's id.
            store: the opened artifact store.
            state: what later processes need to know; ``round`` in it counts the submissions of this run. If this raises
                and nothing else is in it, then nothing was started.
            save: puts ``state`` into the store; it raises if the run was cancelled meanwhile, or another submits it.
        """

    @abstractmethod
    def _status(self, state: dict[str, Any]) -> dict[str, JobStatus]:
        """Return what the platform says of each step, and under ``RUN`` of the run; one that is left out is unknown.

        Raises:
            InfraError: the platform could not be asked.
        """

    @abstractmethod
    def _cancel(self, state: dict[str, Any]) -> None:
        """Ask the platform to end whatever of the run has not ended; ``state`` may be that of a submission cut short."""

    def _logs(self, state: dict[str, Any], step: str) -> Iterator[bytes]:
        """Yield what the platform kept of a step's output, from its beginning; asked where the store has none."""
        return iter(())

    def mounts(self) -> list[str]:
        """Return the local directories that the containers see under the same paths."""
        return []

    # -- what it gets for that ------------------------------------------------------------------------------------------------

    def carry(self, config: Mapping[str, Any], *, used: int = 0, copies: int = 1) -> Carried:
        """Return how a config travels, as ``transport.carry`` does, with the reference into the config's own store."""
        data = wire.dumps(config).encode()
        url = f"{config['store'].rstrip('/')}/{keys.config(wire.sha256(data))}"
        return transport.carry(data, self.limits, url, used=used, copies=copies)

    def environment(self, carried: Carried, config: Mapping[str, Any], step: str, run_id: str, path: str = "") -> dict[str, str]:
        """Return the variables of the container contract.

        Args:
            carried: how the config travels.
            config: the config.
            step: the step.
            run_id: the run's id.
            path: where a mounted config lies in the container.
        """
        env = {**carried.environment(path), "ZEN_RUNNER_STEP": step, "ZEN_RUNNER_RUN_ID": run_id}
        image = config["steps"][step]["image"]
        if "@sha256:" in image:
            env["ZEN_RUNNER_IMAGE_DIGEST"] = image
        return env

    # -- submit ---------------------------------------------------------------------------------------------------------------

    def submit(self, config: Mapping[str, Any], run_id: str, store: Store) -> Handle:
        """Ship the code, hand the pipeline to the platform and return the handle; a run is submitted once.

        A run that was submitted before is found, one whose submission was cut short is completed, and one that failed or was
        cancelled is submitted again without the steps that have a good result.

        Raises:
            ConfigError: the config can't run there, or the run id is that of a run of another config.
            DuplicateError: another process is submitting this run.
            InfraError: the store or the platform could not be reached, or refused.
            Terminated: the run was cancelled meanwhile.
        """
        return self._hand_over(config, run_id, store, lambda: False)

    def _hand_over(self, config: Mapping[str, Any], run_id: str, store: Store, stop_requested: Callable[[], bool]) -> Handle:
        from tempfile import TemporaryDirectory

        keys.check_run_id(run_id)
        with TemporaryDirectory(prefix="zen-runner-") as folder:
            shipment = ship(config, folder, mounts=self.mounts())
            if read_handle(store, run_id) is None:  # else it has been through this
                self.render(shipment.config, run_id)
            upload(shipment, store)
        submission = Submission(self, shipment, wire.sha256(wire.dumps(config).encode()), run_id, store, stop_requested)
        return submission.perform()

    # -- and after ------------------------------------------------------------------------------------------------------------

    def run(self, execution: Execution) -> dict[str, Any]:
        config, run_id, store = execution.config, execution.run_id, execution.store
        before = records.results(store, run_id) if read_handle(store, run_id) is not None else {}
        good = [step for step in config["steps"] if step in before and before[step]["class"] == outcome.SUCCESS]
        handle = self._hand_over(config, run_id, store, execution.stop_requested)
        return Wait(self, handle, good, execution.report, execution.stop_requested).perform()

    def wait(
        self,
        handle: Mapping[str, Any],
        *,
        report: Report | None = None,
        stop_requested: Callable[[], bool] | None = None,
    ) -> dict[str, Any]:
        """Wait for the end of a submitted run and return its summary, as ``driver.drive`` describes it.

        Args:
            handle: what ``submit`` returned.
            report: called with each event; None for silence.
            stop_requested: called often; True cancels the run.

        Raises:
            InfraError: the store, or for long the platform, could not be reached.
        """
        return Wait(self, handle, handle["resumed"], report, stop_requested).perform()

    def status(self, handle: Mapping[str, Any]) -> dict[str, Any]:
        try:
            picture = Watch(self, handle).look()
        except ZenRunnerError as error:
            return {
                "run": handle["run"],
                "state": UNKNOWN,
                "class": None,
                "exit_code": None,
                "message": str(error),
                "steps": {},
            }
        return picture.answer()

    def logs(self, handle: Mapping[str, Any], step: str | None = None, follow: bool = False) -> Iterator[bytes]:
        """Yield what a step printed, in order: what the store has of it, else what the platform kept.

        Args:
            handle: what ``submit`` returned.
            step: the step's name.
            follow: go on until the step has ended, its retries included.

        Raises:
            UsageError: there is no such step.
        """
        watch = Watch(self, handle)
        steps = list(watch.config["steps"])
        if step is None:
            raise UsageError(f"run {handle['run']!r} has no driver; name one of its steps: {', '.join(steps)}")
        if step not in steps:
            raise UsageError(f"run {handle['run']!r} has no step {step!r}; its steps are {', '.join(steps)}")
        return watch.log(step, follow)

    def cancel(self, handle: Mapping[str, Any]) -> None:
        watch = Watch(self, handle)
        if watch.look().state() in ENDED:
            return
        watch.store.put(keys.cancel(handle["run"]), wire.dumps({"version": 1, "at": utc()}).encode())
        self._cancel(dict(watch.handle["state"]))
