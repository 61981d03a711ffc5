"""What all orchestrators share that hand a run to a platform: AWS Batch, Kubeflow, a virtual machine, …

The base ships the code, keeps the handle, submits a run exactly once whoever crashes, asks how it does and waits for its end.
What a step did is told by its record in the store; the platform is asked only for what has no record.

Backends derive from one of the bases over this one: ``jobs.JobsBackend`` and ``jobs.PipelineBackend`` where the platform keeps
the order of the steps, ``machine.MachineBackend`` where one container or machine runs all of them.
"""

from __future__ import annotations

from abc import abstractmethod
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from backends import graph, outcome, wire
from backends.base import OrchestratorBaseBackend
from backends.errors import UsageError, ZenRunnerError
from backends.execution import never
from backends.orchestrator.remote.follow import Follower, Patience
from backends.orchestrator.remote.job import Names, carry, contract, job_of, parents_of_jobs, steps_of_jobs
from backends.orchestrator.remote.life import PlatformLife
from backends.orchestrator.remote.submission import Submission
from backends.process import utc
from backends.shipping.shipment import ship, upload
from backends.states import ENDED
from backends.store import keys, open_store, records
from backends.store.keys import check_run_id
from backends.store.records import read_handle
from backends.view import RunView, config_of, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from backends.config.transport import Limits
    from backends.execution import Execution, Report
    from backends.names import Rule
    from backends.orchestrator.remote.job import Job
    from backends.platform import Document, JobStatus, Platform
    from backends.shipping.shipment import Shipment
    from backends.store.base import Store

    Handle = dict[str, Any]


class Sending(NamedTuple):
    """One round of a run on its way to the platform.

    Attributes:
        platform: the platform.
        config: the shipped config.
        run: the run's id.
        store: the opened artifact store.
        done: steps that have a good result already.
        state: what later processes need to know; ``round`` in it counts the submissions of this run. If sending it raises and
            nothing else is in it, then nothing was started.
        save: puts ``state`` into the store; it raises if the run was cancelled meanwhile, or another submits it.
        check: raises if this process was asked to stop; it costs nothing, and is called between any two jobs.
    """

    platform: Platform
    config: Mapping[str, Any]
    run: str
    store: Store
    done: frozenset[str]
    state: dict[str, Any]
    save: Callable[[], None]
    check: Callable[[], None]


class RemoteBackend(OrchestratorBaseBackend):
    """An orchestrator that hands a run to a platform.

    Attributes:
        limits: what the platform holds of a config.
        rule: what the platform takes for a name.
        runs_a_driver: a driver inside what the platform runs orders the steps and writes ``run.json``.
        arrays: the platform runs the members of a ``foreach`` step as one job.
        config_path: where a mounted config lies in the container.
        startup_timeout: seconds for which nothing may run and nothing change while a step that could run is pending; then the
            run is cancelled. None for ever. A backend makes this an argument of its own.
        deadline: seconds from the submission after which the run is cancelled; None for ever. The same.
        poll_most: the most seconds between two questions to the platform.
        blind_timeout: seconds for which the run's state may be unknown while somebody waits for its end.
        cancel_timeout: seconds, beside the steps' grace period, that a cancelled run has to end.
    """

    ships = True
    limits: ClassVar[Limits]
    rule: ClassVar[Rule]
    runs_a_driver: bool
    arrays: ClassVar[bool] = False
    config_path: ClassVar[str] = ""
    startup_timeout: float | None = 1800.0
    deadline: float | None = None
    poll_most: float = 15.0
    blind_timeout: float = 600.0
    cancel_timeout: float = 120.0

    # -- what a backend says --------------------------------------------------------------------------------------------------

    @abstractmethod
    def platform(self, store: Store) -> Platform:
        """Return the platform, for one run.

        Args:
            store: the run's.
        """

    def count_variables(self, env: Mapping[str, str]) -> int:
        """Return what a container's variables beside the config count towards ``limits``."""
        return 0

    def escape(self, text: str) -> str:
        """Return what the platform reads as the given JSON, where it would take some of it for its own."""
        return text

    # -- what one of the bases says -------------------------------------------------------------------------------------------

    @abstractmethod
    def render(
        self, config: Mapping[str, Any], run_id: str = "RUN", done: Collection[str] = frozenset(), number: int = 1
    ) -> list[Document]:
        """Return the documents that this backend hands to its platform; pure, offline and deterministic.

        Args:
            config: the resolved config, shipped or not.
            run_id: the run's id.
            done: steps that have a good result already; they are left out, and so is the waiting for them.
            number: the round: how often the run has been submitted, this time included.
        """

    @abstractmethod
    def send(self, sending: Sending) -> None:
        """Hand one round to the platform, and complete what an earlier call with its state has begun."""

    @abstractmethod
    def statuses(self, platform: Platform, state: Mapping[str, Any]) -> dict[str, JobStatus]:
        """Return what the platform says of each step, and under ``WHOLE_RUN`` of the run; one that is left out is unknown.

        Raises:
            InfraError: the platform could not be asked.
        """

    @abstractmethod
    def end(self, platform: Platform, state: Mapping[str, Any]) -> None:
        """Ask the platform to end whatever of a round has not ended; ``state`` may be that of a submission cut short."""

    def platform_log(self, platform: Platform, state: Mapping[str, Any], step: str) -> Iterator[bytes]:
        """Yield what the platform kept of a step's output, from its beginning; asked where the store has none."""
        return iter(())

    # -- what they get for that -----------------------------------------------------------------------------------------------

    def jobs(self, config: Mapping[str, Any], run_id: str, done: Collection[str] = frozenset(), number: int = 1) -> list[Job]:
        """Return a pipeline's jobs, each after those that it waits for.

        Args: as for ``render``.
        """
        steps = config["steps"]
        firsts, sizes = steps_of_jobs(steps, done, self.arrays)
        parents = parents_of_jobs(steps, firsts, sizes)
        names = Names(self.rule, config["store"], run_id, number)
        environments = self.environments(config, run_id, firsts)
        return [
            job_of(config, key, steps[firsts[key]], run_id)._replace(
                name=names.of(key), env=environments[key], after=tuple(parents[key]), size=sizes.get(key, 1)
            )
            for key in graph.order(parents)
        ]

    def environments(self, config: Mapping[str, Any], run_id: str, steps: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """Return the variables of the container contract for each job, the config among them.

        Args:
            config: the config.
            run_id: the run's id.
            steps: by the job's key, the step whose image it has.
        """
        if not steps:
            return {}
        without = {key: contract(config, key, step, run_id) for key, step in steps.items()}
        text = wire.dumps(config)
        plain = self.escape(text)
        # The config is the same for all, so what else counts is that of the job with the most of it.
        used = max(map(self.count_variables, without.values())) + self.limits.count(plain) - self.limits.count(text)
        carried = carry(config, self.limits, used=used, copies=len(steps))
        if carried.how == "inline":
            carried.value = plain
        return {key: {**carried.environment(self.config_path), **env} for key, env in without.items()}

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
        return self._hand_over(config, run_id, store, never)

    def _hand_over(self, config: Mapping[str, Any], run_id: str, store: Store, stop_requested: Callable[[], bool]) -> Handle:
        from tempfile import TemporaryDirectory

        check_run_id(run_id)
        platform = self.platform(store)
        with TemporaryDirectory(prefix="zen-runner-") as folder:
            shipment = ship(config, folder, mounts=self.mounts())
            if read_handle(store, run_id) is None:  # else it has been through this, before anything was put into the store
                self.render(shipment.config, run_id)
                platform.check()
            upload(shipment, store)
        round_of = _Round(self, platform, shipment, run_id, store)
        unshipped = wire.sha256(wire.dumps(config).encode())
        return Submission(round_of, shipment, unshipped, run_id, store, stop_requested).submit()

    # -- and after ------------------------------------------------------------------------------------------------------------

    def run(self, execution: Execution) -> dict[str, Any]:
        config, run_id, store = execution.config, execution.run_id, execution.store
        before = records.results(store, run_id) if read_handle(store, run_id) is not None else {}
        good = [step for step in config["steps"] if step in before and before[step]["class"] == outcome.SUCCESS]
        handle = self._hand_over(config, run_id, store, execution.stop_requested)
        return self._follower(handle, good, execution.report, execution.stop_requested).wait()

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
        return self._follower(handle, handle["resumed"], report, stop_requested).wait()

    def _follower(
        self,
        handle: Mapping[str, Any],
        resumed: list[str],
        report: Report | None,
        stop_requested: Callable[[], bool] | None,
    ) -> Follower:
        patience = Patience(
            inf if self.startup_timeout is None else self.startup_timeout,
            inf if self.deadline is None else self.deadline,
            self.poll_most,
            self.blind_timeout,
            self.cancel_timeout,
        )
        view, life = self._look_at(handle)
        return Follower(view, life, resumed, patience, lambda: self.cancel(life.handle), report, stop_requested)

    def view(self, handle: Mapping[str, Any]) -> RunView:
        return self._look_at(handle)[0]

    def _look_at(self, handle: Mapping[str, Any]) -> tuple[RunView, PlatformLife]:
        store = open_store(handle["store"])
        life = PlatformLife(self, self.platform(store), store, handle)
        return RunView(store, handle["run"], config_of(store, handle), life), life

    def status(self, handle: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self.view(handle).look().answer()
        except ZenRunnerError as error:
            return unknown(handle, str(error))

    def logs(self, handle: Mapping[str, Any], step: str | None = None, follow: bool = False) -> Iterator[bytes]:
        """Yield what a step printed, in order: what the store has of it, else what the platform kept.

        Args:
            handle: what ``submit`` returned.
            step: the step's name; None for the driver, whose log is the platform's.
            follow: go on until the step has ended, its retries included; for the driver, until the run has.

        Raises:
            UsageError: there is no such step, or no driver.
        """
        view = self.view(handle)
        steps = list(view.config["steps"])
        if step is None and self.runs_a_driver:
            return view.driver_log(follow)
        if step is None:
            raise UsageError(f"run {handle['run']!r} has no driver; name one of its steps: {', '.join(steps)}")
        if step not in steps:
            raise UsageError(f"run {handle['run']!r} has no step {step!r}; its steps are {', '.join(steps)}")
        return view.log(step, follow)

    def cancel(self, handle: Mapping[str, Any]) -> None:
        view, life = self._look_at(handle)
        if view.look().state() in ENDED:
            return
        view.store.put(keys.cancel(handle["run"]), wire.dumps({"version": 1, "at": utc()}).encode())
        self.end(life.platform, life.handle["state"])


class _Round:
    """What a submission needs of its backend, for one run."""

    def __init__(self, backend: RemoteBackend, platform: Platform, shipment: Shipment, run_id: str, store: Store) -> None:
        self._backend = backend
        self._platform = platform
        self._shipment = shipment
        self._run = run_id
        self._store = store

    def block(self) -> dict[str, Any]:
        return self._backend.to_config()

    def send(self, state: dict[str, Any], done: frozenset[str], save: Callable[[], None], check: Callable[[], None]) -> None:
        config = self._shipment.config
        self._backend.send(Sending(self._platform, config, self._run, self._store, done, state, save, check))

    def state_of(self, handle: Handle) -> str:
        return str(self._backend.status(handle)["state"])

    def end(self, state: Mapping[str, Any]) -> None:
        self._backend.end(self._platform, state)
