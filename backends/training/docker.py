"""Training in a container of a Docker Engine, wherever the pipeline runs."""

from __future__ import annotations

import sys
from contextlib import suppress

from backends import arguments, names, wire
from backends.base import TrainingBaseBackend
from backends.config.transport import ENV_LIMIT, Limits
from backends.errors import ZenRunnerError
from backends.orchestrator.docker import OrchestratorDockerBackend
from backends.orchestrator.docker.api import Engine
from backends.orchestrator.driven.container_platform import Labels
from backends.process import whoami

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any, Literal

    from backends.orchestrator.remote.job import Job
    from backends.platform import Document
    from backends.store.base import Store


class TrainingDockerBackend(TrainingBaseBackend):
    """Trains in a container of a Docker Engine, which ``$DOCKER_HOST`` may name on another machine.

    Args:
        network, pull, user, read_only, engine_timeout: as for the orchestrator of this name.
        startup_timeout: seconds that the container may take until it runs; None for ever.
    """

    limits = Limits("a container's environment", ENV_LIMIT, source='execve(2), "Limits on size of arguments and environment"')
    # Source: Docker Engine API, ``POST /containers/create``, ``name``; without the dot, since names are looked for as patterns.
    rule = names.Rule(128, names.LETTERS + names.DIGITS + "_-", names.LETTERS + names.DIGITS, names.LETTERS + names.DIGITS + "_-")

    def __init__(
        self,
        network: str | None = None,
        pull: Literal["missing", "never", "always"] = "missing",
        user: str | None = None,
        read_only: bool = True,
        engine_timeout: float = 60.0,
        startup_timeout: float | None = 3600.0,
    ) -> None:
        arguments.refuse(arguments.positive(startup_timeout=startup_timeout))
        self.startup_timeout = startup_timeout
        self._docker = OrchestratorDockerBackend(
            network=network, pull=pull, user=user, read_only=read_only, engine_timeout=engine_timeout
        )

    def runs_here(self) -> bool:
        return False

    def mounts(self) -> list[str]:
        return ["/"]  # the store and the step's own files are mounted where they are; an engine without them says so

    def render_job(self, job: Job, config: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> list[Document]:
        renderer = self._docker.renderer(config)
        driver = "{driver}" if environ is None else wire.dumps(whoami())
        labels = Labels(job.run, job.key, job.name, config["name"], renderer.sha, config["store"], job.image, driver)
        return [{"job": job.key, **renderer.render(labels, job.memory, environ), "name": job.name}]

    def platform(self, store: Store) -> Detached:
        docker = self._docker
        return Detached(docker.pull, docker.user, docker.engine_timeout, connections=4)


class Detached(Engine):
    """A Docker Engine whose containers go on without whoever started them.

    Args: as for the engine.
    """

    def __init__(self, pull: str, user: str | None, timeout: float, connections: int) -> None:
        super().__init__(pull, user, timeout, connections)
        self._asked: set[str] = set()

    def start(self, document: Document, ids: Mapping[str, str]) -> str:
        self.fetch(document["container"]["Image"], f"steps.{document['step']}.image", _say, lambda: False)
        container = super().start(document, ids)
        self.detach(container)  # or the container would wait for its output to be read
        return container

    def end(self, ids: Collection[str]) -> None:
        for container in ids:  # the supervisor in it keeps the grace period; one that is told again has not
            self.signal(container, "SIGKILL" if container in self._asked else "SIGTERM")
            self._asked.add(container)

    def forget(self, job: str) -> None:
        with suppress(ZenRunnerError):  # whoever uses the engine next removes it
            self.wait(job)
            self.remove(job)


def _say(text: str) -> None:
    print(f"zen-runner: {text}", file=sys.stderr, flush=True)
