"""The default orchestrator: one process per step, on this machine."""

from __future__ import annotations

from backends import arguments, graph, wire
from backends.errors import UsageError
from backends.orchestrator.driven.backend import ClientDrivenBackend, end_orphans
from backends.store import keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from backends.execution import Execution, Launcher
    from backends.store.records import Handle


class OrchestratorLocalBackend(ClientDrivenBackend):
    """Runs every step as a process of its own under the user's Python.

    Args:
        max_parallel: how many steps run at a time; None for one per CPU.
        keep_going: after a step failed for good, still run the steps that don't depend on it.
    """

    def __init__(self, max_parallel: int | None = None, keep_going: bool = False) -> None:
        arguments.refuse(arguments.at_least(1, max_parallel=max_parallel))
        self.max_parallel = max_parallel
        self.keep_going = keep_going

    def render(self, config: Mapping[str, Any], run_id: str = "{run}") -> list[dict[str, Any]]:
        """Return one document per step, parents first: its command, its environment and the steps that it waits for."""
        sha = wire.sha256(wire.dumps(config).encode())
        where = f"{config['store'].rstrip('/')}/{keys.config(sha)}"
        parents = {step: spec["parents"] for step, spec in config["steps"].items()}
        return [
            {
                "step": step,
                "argv": ["zen-runner", "run", "--step", step],
                "env": {"ZEN_RUNNER_CONFIG_FILE": where, "ZEN_RUNNER_RUN_ID": run_id},
                "parents": list(parents[step]),
            }
            for step in graph.order(parents)
        ]

    def make_launcher(self, execution: Execution) -> Launcher:
        # A process that starts others and takes signals is the entrypoint's; this package never imports it.
        if execution.launcher is None:
            raise UsageError("the local orchestrator runs under `zen-runner run`, which gives it its launcher")
        return execution.launcher

    def runs_here(self) -> bool:
        return True

    def cleanup(self, handle: Handle) -> None:
        end_orphans(handle)
