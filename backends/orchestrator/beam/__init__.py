"""The orchestrator that makes the pipeline's DAG a pipeline of Apache Beam, on Beam's local runner or any other.

Beam is in the user's Python, not in the runner's, so ``pipeline.py`` runs there as a program; the driver, here, and that program
talk over a socket in a private directory.

Where Beam runs on this machine the steps are the driver's: processes of the launcher that ``local`` has, started when Beam has
reached their ParDo. Everywhere else a step's ParDo runs ``zen-runner run --step`` on Beam's worker, and the driver follows the
store's records. Either way it is ``driver.drive`` that takes the run to its end.
"""

from __future__ import annotations

from tempfile import TemporaryDirectory

from backends import arguments, graph, outcome, wire
from backends.errors import UsageError
from backends.execution import Execution
from backends.orchestrator.beam.launchers import AnnouncedOrder, GuardedLauncher, RemoteLauncher
from backends.orchestrator.beam.program import SETTLE, BeamProgram
from backends.orchestrator.driven.backend import ClientDrivenBackend, end_orphans
from backends.orchestrator.driven.driver import drive
from backends.orchestrator.driven.spawn import available_cpus
from backends.shipping.shipment import ship, upload
from backends.store import keys, records
from backends.store.base import BUCKET_SCHEMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Literal

    from backends.errors import Problem
    from backends.execution import ProcessLauncher
    from backends.store.records import Handle, Summary


DIRECT = "DirectRunner"
_HERE = frozenset(("direct", "directrunner", "fnapirunner", "switchingdirectrunner"))  # Beam takes any case, too


class OrchestratorBeamBackend(ClientDrivenBackend):
    """Runs the pipeline as one of Apache Beam, one ParDo per step.

    Args:
        runner: Beam's name of the runner, or the full name of its class. With ``DirectRunner`` all is on this machine.
        options: Beam's pipeline options by their names without dashes, such as ``job_endpoint``.
        max_parallel: how many steps run at a time; None for one per CPU. On another runner that is the runner's to decide.
        keep_going: after a step failed for good, still run the steps that don't depend on it.
        program: the command of zen-runner on Beam's workers.
        mounts: local directories that Beam's workers see under the same paths.
        startup_timeout: seconds that Beam may take to be imported, and for which nothing may run while a step waits for Beam
            alone; None for ever.
        worker_machine_type: the machine type of Beam's workers. This and the next four are options of a runner that has workers
            of its own; one in ``options`` counts more.
        num_workers: how many workers there are at first.
        max_num_workers: how many there may be.
        disk_size_gb: the size of a worker's disk, in GB.
        autoscaling_algorithm: how the number of workers follows the work.
    """

    def __init__(
        self,
        runner: str = DIRECT,
        options: dict[str, Any] | None = None,
        max_parallel: int | None = None,
        keep_going: bool = False,
        program: list[str] | None = None,
        mounts: list[str] | None = None,
        startup_timeout: float | None = 600.0,
        worker_machine_type: str = "e2-medium",
        num_workers: int = 4,
        max_num_workers: int = 10,
        disk_size_gb: int = 100,
        autoscaling_algorithm: Literal["THROUGHPUT_BASED", "NONE"] = "THROUGHPUT_BASED",
    ) -> None:
        problems = arguments.at_least(
            1, num_workers=num_workers, max_num_workers=max_num_workers, disk_size_gb=disk_size_gb, max_parallel=max_parallel
        )
        problems += arguments.positive(startup_timeout=startup_timeout)
        if not runner:
            problems.append(arguments.wrong("runner", f"must be the name of a Beam runner, such as {DIRECT}"))
        if program is not None and not program:
            problems.append(arguments.wrong("program", 'must be a command, such as ["zen-runner"]'))
        arguments.refuse(problems + arguments.absolute(mounts=mounts) + _wrong_options(options or {}))
        self.runner = runner
        self.max_parallel = max_parallel
        self.keep_going = keep_going
        self._options = options or {}
        self._program = program or ["zen-runner"]
        self._mounts = mounts or []
        self._startup_timeout = float("inf") if startup_timeout is None else startup_timeout
        self._workers: dict[str, Any] = {
            "worker_machine_type": worker_machine_type,
            "num_workers": num_workers,
            "max_num_workers": max_num_workers,
            "disk_size_gb": disk_size_gb,
            "autoscaling_algorithm": autoscaling_algorithm,
        }

    def runs_here(self) -> bool:
        return self.runner.rpartition(".")[2].lower() in _HERE

    def render(self, config: Mapping[str, Any], run_id: str = "{run}") -> list[dict[str, Any]]:
        """Return the job's document, then one per step, parents first: what makes up the Beam pipeline.

        ``argv`` and ``env`` start an attempt of the step; ``retry`` holds the exit statuses after which there is another one.
        """
        spec = self._spec(config, run_id)
        steps = spec.pop("steps")
        return [{"job": config["name"], **spec}, *steps]

    def make_launcher(self, execution: Execution) -> ProcessLauncher:
        # A process that starts others and takes signals is the entrypoint's; this package never imports it.
        if execution.launcher is None:
            raise UsageError("Beam's DirectRunner is used under `zen-runner run`, which gives this backend its launcher")
        return execution.launcher

    def cleanup(self, handle: Handle) -> None:
        end_orphans(handle)  # Beam's program ends with its driver

    def run(self, execution: Execution) -> Summary:
        return self._run_here(execution) if self.runs_here() else self._run_elsewhere(execution)

    def _run_here(self, execution: Execution) -> Summary:
        config, launcher = execution.config, self.make_launcher(execution)
        spec = self._spec(config, execution.run_id)
        beam = BeamProgram(spec, execution.store, execution.run_id, launcher.wake, self._startup_timeout)
        order = AnnouncedOrder(config, beam)
        try:
            beam.start(execution.stop_requested)
            guarded = GuardedLauncher(launcher, beam, order)
            summary = drive(
                execution, guarded, max_parallel=self.max_parallel or available_cpus(), keep_going=self.keep_going, graph=order
            )
            beam.finish(summary)
            return summary
        finally:
            try:
                beam.close()
            finally:
                launcher.close()

    def _run_elsewhere(self, execution: Execution) -> Summary:
        config, run_id, store, stop = execution.config, execution.run_id, execution.store, execution.stop_requested
        if not self._loops_back():
            with TemporaryDirectory(prefix="zen-runner-") as folder:
                shipment = ship(config, folder, mounts=self._mounts)
                upload(shipment, store)
            config = shipment.config
        records.put_config(store, config)
        before = records.results(store, run_id)
        done = [step for step, record in before.items() if record["class"] == outcome.SUCCESS]
        beam = BeamProgram(self._spec(config, run_id, done), store, run_id, lambda: None, self._startup_timeout)
        try:
            beam.start(stop)
            order = AnnouncedOrder(config, beam)
            launcher = RemoteLauncher(config, run_id, store, beam, order)
            shipped = Execution(
                config, run_id, store, report=execution.report, stop_requested=lambda: stop() and launcher.is_up_to_date()
            )
            summary = drive(shipped, launcher, max_parallel=len(config["steps"]), keep_going=self.keep_going, graph=order)
            beam.finish(summary)
            return summary
        finally:
            beam.close(max(float(step["grace_period"] or 0) for step in config["steps"].values()) + SETTLE)

    def _loops_back(self) -> bool:
        """Return whether Beam's workers are threads of the program that is started here."""
        return str(self._options.get("environment_type", "")).upper() == "LOOPBACK"

    def _spec(self, config: Mapping[str, Any], run_id: str, done: list[str] | None = None) -> dict[str, Any]:
        """Return what ``pipeline.py`` gets."""
        sha = wire.sha256(wire.dumps(config).encode())
        where = f"{config['store'].rstrip('/')}/{keys.config(sha)}"
        if where.partition("://")[0].lower() in BUCKET_SCHEMES:
            env = {"ZEN_RUNNER_CONFIG": f"ref:{where}#sha256={sha}", "ZEN_RUNNER_RUN_ID": run_id}
        else:
            env = {"ZEN_RUNNER_CONFIG_FILE": where, "ZEN_RUNNER_RUN_ID": run_id}
        steps = config["steps"]
        parents = {step: steps[step]["parents"] for step in steps}
        return {
            "runner": self.runner,
            "options": self._options if self.runs_here() else {**self._workers, **self._options},
            "driven": self.runs_here(),
            "steps": [
                {
                    "step": step,
                    "parents": list(parents[step]),
                    "argv": [*self._program, "run", "--step", step],
                    "env": env,
                    "retry": retry_policy(steps[step]["retry"]),
                    "done": step in (done or ()),
                }
                for step in graph.order(parents)
            ],
        }


def _wrong_options(options: Mapping[str, Any]) -> list[Problem]:
    problems = []
    for name, value in options.items():
        parts = value if isinstance(value, list) else [value]
        if name == "runner":
            problems.append(arguments.wrong(f"options.{name}", "is an argument of its own: write args.runner"))
        elif not name or name[:1] == "-" or "=" in name:
            problems.append(arguments.wrong(f"options.{name}", "must be an option's name without dashes, such as job_endpoint"))
        elif not all(isinstance(part, str | int | float) for part in parts):
            problems.append(arguments.wrong(f"options.{name}", "must be a string, a number, a boolean, or a list of these"))
    return problems


def retry_policy(retry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a retry policy for a reader that has no exit table: the statuses that are retried, and those that are not.

    ``others`` is for a status in neither list, which is the step's own.
    """
    codes = [row.code for row in outcome.TABLE if outcome.is_retried(row.name, row.code, retry["on"])]
    return {
        "limit": retry["limit"],
        "backoff": retry["backoff"],
        "codes": codes,
        "never": [row.code for row in outcome.TABLE if row.code not in codes],
        "others": outcome.USER in retry["on"],
    }
