"""The orchestrator that runs every step in a container of a Docker Engine, ordered by a driver on the client's machine.

`Recipe` says what the engine is asked for, and is pure; `DockerLauncher` does the asking. Every container has a thread
here that sees it from its creation to its removal. The record of an attempt is the one that the container's own
supervisor left in the store; only where there is none do the engine's words count. Containers carry labels that say whose
they are, so that a client that comes after one that died takes over what still runs, reads what ended meanwhile, and
removes the rest.
"""

from __future__ import annotations

from backends import arguments, graph
from backends.execution import Execution
from backends.orchestrator.docker.launcher import DockerLauncher
from backends.orchestrator.docker.render import Renderer, container_name
from backends.orchestrator.driven.backend import ClientDrivenBackend
from backends.store import open_store, records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Literal

    from backends.execution import Launcher


class OrchestratorDockerBackend(ClientDrivenBackend):
    """Runs every step in a container of its own on a Docker Engine, which sees the client's files.

    Args:
        max_parallel: how many containers run at a time; None for one a CPU.
        keep_going: after a step failed for good, still run the steps that don't depend on it.
        network: the engine's network for the containers, such as ``none`` or ``host``; None for the engine's default.
        pull: when an image is pulled: if it is missing, never, or always once a run.
        user: who the containers run as, ``uid`` or ``uid:gid``; None for the caller, who then owns what they write.
        read_only: the image's files can't be changed; ``/tmp`` is writable all the same, and in memory.
        engine_timeout: how long the engine may take for one answer, such as the start of a container, in seconds.
    """

    def __init__(
        self,
        max_parallel: int | None = None,
        keep_going: bool = False,
        network: str | None = None,
        pull: Literal["missing", "never", "always"] = "missing",
        user: str | None = None,
        read_only: bool = True,
        engine_timeout: float = 60.0,
    ) -> None:
        arguments.refuse(arguments.at_least(1, max_parallel=max_parallel) + arguments.positive(engine_timeout=engine_timeout))
        self.max_parallel = max_parallel
        self.keep_going = keep_going
        self.network = network
        self.pull = pull
        self.user = user
        self.read_only = read_only
        self.engine_timeout = engine_timeout

    def render(self, config: Mapping[str, Any], run_id: str = "{run}") -> list[dict[str, Any]]:
        """Return a document a step, parents first: the container's name and the body of its creation.

        What only a run knows stands in braces, such as ``{run}``. ``passed`` names the variables of the client's
        environment that the container gets too, where they are set.

        Source: Docker Engine API v1.45, ``POST /containers/create``.
        """
        recipe = Renderer(self, config)
        parents = {step: spec["parents"] for step, spec in config["steps"].items()}
        return [
            {
                "step": step,
                "parents": list(parents[step]),
                "name": container_name(run_id, step, "{attempt}"),
                "passed": recipe.passed(step),
                "container": recipe.body(step, config["steps"][step]["resources"]["memory"], run=run_id),
            }
            for step in graph.order(parents)
        ]

    def make_launcher(self, execution: Execution) -> Launcher:
        return DockerLauncher(self, execution)

    def cleanup(self, handle: Mapping[str, Any]) -> None:
        store = open_store(handle["store"])
        config = records.get_config(store, handle["config"])
        if config is not None:
            self.make_launcher(Execution(config, handle["run"], store)).close()
