"""Orchestrators whose steps are containers of a platform that a driver on the client's machine starts one by one."""

from __future__ import annotations

from abc import abstractmethod

from backends import graph
from backends.execution import Execution
from backends.orchestrator.driven.backend import ClientDrivenBackend
from backends.orchestrator.driven.container_platform import Labels
from backends.orchestrator.driven.platform_launcher import PlatformLauncher
from backends.store import open_store, records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from backends.execution import Launcher
    from backends.orchestrator.driven.container_platform import ContainerPlatform, ContainerRenderer
    from backends.store.records import Handle


class ContainersBackend(ClientDrivenBackend):
    """An orchestrator that is there once it can render a container and has a platform that runs it."""

    @abstractmethod
    def renderer(self, config: Mapping[str, Any]) -> ContainerRenderer:
        """Return what the platform is asked for, for the steps of a resolved config."""

    @abstractmethod
    def platform(self) -> ContainerPlatform:
        """Return the platform, with a connection of its own.

        Raises:
            PlacementError: the platform's client library is not installed.
            InfraError: the platform does not answer.
        """

    def render(self, config: Mapping[str, Any], run_id: str = "{run}") -> list[dict[str, Any]]:
        """Return one document per step, parents first: what the platform is asked for.

        What only a run knows stands in braces, such as ``{run}``.
        """
        renderer = self.renderer(config)
        steps = config["steps"]
        parents = {step: spec["parents"] for step, spec in steps.items()}
        documents = []
        for step in graph.order(parents):
            image, memory = steps[step]["image"], steps[step]["resources"]["memory"]
            labels = Labels(run_id, step, "{attempt}", config["name"], renderer.sha, config["store"], image, "{driver}")
            document = renderer.render(labels, memory, None)
            documents.append({"step": step, "parents": list(parents[step]), **document})
        return documents

    def make_launcher(self, execution: Execution) -> Launcher:
        return PlatformLauncher(self.platform(), self.renderer(execution.config), execution)

    def cleanup(self, handle: Handle) -> None:
        store = open_store(handle["store"])
        config = records.get_config(store, handle["config"])
        if config is not None:
            self.make_launcher(Execution(config, handle["run"], store)).close()
