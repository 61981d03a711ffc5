"""The images on a Docker Engine, pulled where the options say so."""

from __future__ import annotations

import threading
from contextlib import suppress

from backends.errors import ConfigError, InfraError, Terminated
from backends.orchestrator.docker.engine import engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    import docker

# The engine passes on the registry's words, and with them no code to rely on.
_NOT_THERE = ("manifest unknown", "not found", "denied", "unauthorized", "invalid reference")


class Images:
    """The images of one run, each the same all through it.

    Args:
        client: the engine's.
        pull: when an image is pulled: ``missing``, ``never`` or ``always``.
    """

    def __init__(self, client: docker.APIClient, pull: str) -> None:
        self._client = client
        self._pull_when = pull
        self._images: dict[str, tuple[str, str]] = {}
        self._lock = threading.Lock()

    def ready(self, name: str) -> tuple[str, str]:
        """Return the id and the digest of an image that ``get`` has returned before; else its name, and no digest."""
        return self._images.get(name, (name, ""))

    def get(self, name: str, place: str, say: Callable[[str], None], stopped: Callable[[], bool]) -> tuple[str, str]:
        """Return an image's id and digest, pulled if the options say so; `ContainerPlatform.fetch` has the arguments."""
        import docker

        with self._lock:
            if name not in self._images:
                image = None
                with engine(f"{place}: look for {name}"), suppress(docker.errors.ImageNotFound):
                    if self._pull_when != "always":
                        image = self._client.inspect_image(name)  # type: ignore[no-untyped-call]
                if image is None:
                    if self._pull_when == "never":
                        raise ConfigError(f"{place}: {name} is not on this engine, and `pull` is never; {_remedy(name)}")
                    say(f"pulling {name}")
                    self._pull(name, place, stopped)
                    with engine(f"{place}: look for {name}"):
                        image = self._client.inspect_image(name)  # type: ignore[no-untyped-call]
                digests = image.get("RepoDigests") or []
                self._images[name] = image["Id"], str(digests[0] if digests else image["Id"])
            return self._images[name]

    def _pull(self, name: str, place: str, stopped: Callable[[], bool]) -> None:
        import docker

        why = ""
        try:
            with engine(f"{place}: pull {name}", docker.errors.APIError):
                for line in self._client.pull(name, stream=True, decode=True):
                    if stopped():
                        raise Terminated("stopped before the step began")
                    why = line.get("error") or why
        except docker.errors.APIError as error:
            why = str(error.explanation or error)
        if any(sign in why for sign in _NOT_THERE):
            raise ConfigError(f"{place}: {name} is not on this engine, nor to be had from its registry ({why}); {_remedy(name)}")
        if why:
            raise InfraError(f"{place}: {name} is not on this engine, and no registry answers ({why}); {_remedy(name)}")


def _remedy(name: str) -> str:
    if name.startswith("zen-runner:"):
        return "build it with `make images`"
    return "build it, pull it, or correct its name"
