"""Take containers to their end: pass on what they print, see how they ended, remove them."""

from __future__ import annotations

from contextlib import suppress

from backends.errors import ZenRunnerError
from backends.orchestrator.driven import post_mortem
from backends.orchestrator.driven.container import Phase
from backends.orchestrator.driven.container_platform import STDERR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from backends.execution import Output
    from backends.orchestrator.driven.container import Container
    from backends.orchestrator.driven.container_platform import ContainerPlatform, ContainerStatus
    from backends.store.records import Record


class Follower:
    """Takes containers of one platform to their end; its calls come from a thread per container.

    Args:
        platform: where they run.
    """

    def __init__(self, platform: ContainerPlatform) -> None:
        self._platform = platform

    def follow(self, container: Container, output: Output | None) -> Record:
        """Pass on what a container prints until it ends, and return its attempt's record.

        That is the store's, else one made of the last words or of what the platform says, and stored.

        Raises:
            InfraError: the platform or the store could not be asked, so that the attempt's end is still open.
        """
        container.held = b""  # one that is followed again is heard from its beginning
        for stream, data in self._platform.output(container.id):
            passed = container.take(stream, data)
            if passed and output is not None:
                output(container.labels.step, stream, passed)
        claim, record = post_mortem.find_claim(container)
        status, line = None, container.held
        if record is None:  # a container that left its record may take a moment to go; any other must be gone first
            status = self._wait(container)
            claim, record = post_mortem.find_claim(container)
            line = line or (b"" if status is None else status.last_words)
        words = post_mortem.parse_words(container, line)
        if words is None and container.held and output is not None:
            output(container.labels.step, STDERR, container.held)
        if record is None:
            record = post_mortem.reconstruct(container, claim, status, words)
        container.settle()
        return record

    def remove(self, container: Container) -> None:
        """Remove a container that is settled; one that can't be removed now is left to the next client."""
        if container.id and container.phase is Phase.SETTLED:
            with suppress(ZenRunnerError):
                self._wait(container)
                self._platform.remove(container.id)

    def _wait(self, container: Container) -> ContainerStatus | None:
        status = self._platform.wait(container.id)
        container.note(status)
        return status
