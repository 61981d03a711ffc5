"""The orchestrator that runs every step in a container of a Docker Engine, ordered by a driver on the client's machine.

`Renderer` says what the engine is asked for, and is pure; `Engine` does the asking. What is known of the containers and their
ends is `backends.orchestrator.driven`'s.
"""

from __future__ import annotations

from backends import arguments
from backends.orchestrator.docker.api import Engine
from backends.orchestrator.docker.render import Renderer
from backends.orchestrator.driven.containers import ContainersBackend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Literal


class OrchestratorDockerBackend(ContainersBackend):
    """Runs every step in a container of its own on a Docker Engine, which sees the client's files.

    Args:
        max_parallel: how many containers run at a time; None for one per CPU.
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

    def renderer(self, config: Mapping[str, Any]) -> Renderer:
        return Renderer(self, config)

    def platform(self) -> Engine:
        return Engine(self.pull, self.user, self.engine_timeout, connections=max(64, 4 * (self.max_parallel or 0)))
