"""A platform that runs one container now, as a client sees it that keeps the order and follows what runs."""

from __future__ import annotations

from abc import abstractmethod
from math import ceil
from typing import NamedTuple, Protocol

from backends.platform import JobStatus, Platform
from backends.states import PENDING, RUNNING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from typing import Any

    from backends.platform import Document


STDOUT, STDERR = 1, 2
STOP_MARGIN = 5
"""Seconds between the end of the step's grace period, which the supervisor keeps, and the platform's own SIGKILL."""


class Labels(NamedTuple):
    """Whose a container is. A platform keeps this with the container, so that another client can read it.

    Attributes:
        run: the run's id.
        step: the step.
        attempt: what the launcher calls the attempt; the claim in the store repeats it.
        pipeline: the pipeline's name.
        config: the config's sha256.
        store: the store's URL.
        image: the image's name.
        driver: the process that drives the run, as JSON.
    """

    run: str
    step: str
    attempt: str
    pipeline: str
    config: str
    store: str
    image: str
    driver: str

    @property
    def name(self) -> str:
        """The name of the container."""
        return f"zen-runner-{self.run}-{self.step}-{self.attempt}"


class ContainerStatus(JobStatus):
    """What a platform says of one container. Pending is one that never ran.

    Attributes:
        started: when it began, as RFC 3339; None if it did not.
        image: the digest of its image, if known.
        last_words: what the platform kept of its end by itself, such as a termination message.
    """

    __slots__ = ("image", "last_words", "started")

    def __init__(
        self,
        state: str,
        message: str = "",
        *,
        exit_code: int | None = None,
        kind: str | None = None,
        started: str | None = None,
        image: str | None = None,
        last_words: bytes = b"",
    ) -> None:
        super().__init__(state, message, exit_code=exit_code, kind=kind)
        self.started = started
        self.image = image
        self.last_words = last_words

    def has_ended(self) -> bool:
        """Return whether it ran and does not any more."""
        return self.state not in (PENDING, RUNNING)


class ContainerRenderer(Protocol):
    """What a platform is asked for, for the steps of one config; pure and offline.

    Attributes:
        sha: the config's sha256.
    """

    sha: str

    def render(self, labels: Labels, memory: int | None, environ: Mapping[str, str] | None) -> Document:
        """Return what `ContainerPlatform.start` takes for an attempt.

        Args:
            labels: whose it is.
            memory: the limit in bytes; None for no limit.
            environ: the client's environment; None leaves out all that depends on the client's machine.

        Raises:
            ConfigError: the container can't be what the config says.
            PlacementError: the client's machine lacks something, such as a secret's variable.
        """


class ContainerPlatform(Platform):
    """A platform of containers that are followed while they run; its calls come from many threads.

    ``start`` may leave out what only this platform can find out by itself, and may keep the container's output for ``output``.

    Attributes:
        timeout: how long it may take for one answer, in seconds.
    """

    timeout: float = 60.0

    def fetch(self, image: str, place: str, say: Callable[[str], None], stopped: Callable[[], bool]) -> str | None:
        """See that an image is there before a container of it is started, and return its digest.

        A platform that fetches images by itself, once a container needs them, returns None.

        Args:
            image: its name.
            place: where the config names it, for messages.
            say: called with what people should know if it takes long.
            stopped: called often; True gives up.

        Raises:
            ConfigError: there is no such image.
            InfraError: it could not be fetched.
            Terminated: ``stopped`` said so.
        """
        return None

    @abstractmethod
    def containers(self) -> dict[str, Labels]:
        """Return all containers of zen-runner, of any run and client, by id, the oldest first; none that is being removed."""

    @abstractmethod
    def status(self, container: str) -> ContainerStatus | None:
        """Return what the platform says of a container; None if it is gone.

        Raises:
            InfraError: the platform could not be asked.
        """

    def look(self, ids: Collection[str]) -> dict[str, JobStatus]:
        statuses = {container: self.status(container) for container in ids}
        return {container: status for container, status in statuses.items() if status is not None}

    @abstractmethod
    def output(self, container: str) -> Iterator[tuple[int, bytes]]:
        """Yield what a container printed and prints, from its beginning to its end, with the stream: ``STDOUT`` or ``STDERR``.

        It also ends where no more can be heard, for whatever reason; ``wait`` tells what became of the container.

        Raises:
            InfraError: the platform could not be asked.
        """

    @abstractmethod
    def wait(self, container: str) -> ContainerStatus | None:
        """Return how a container ended, once it has; None if it is gone. One that is pending will never run.

        Raises:
            InfraError: the platform could not be asked.
        """

    @abstractmethod
    def stop(self, container: str, grace: int) -> None:
        """Ask a container to end, and end it if it has not after ``grace`` seconds; return when that is done."""

    @abstractmethod
    def remove(self, container: str) -> None:
        """Remove a container that has ended, or never ran."""

    def close(self) -> None:
        """Give up the connections to the platform."""
        return  # most clients keep none that matters


def stop_timeout(step: Mapping[str, Any]) -> int:
    """Return how long a platform waits after SIGTERM before it kills a step's container, in seconds.

    Args:
        step: the step in the resolved config.
    """
    return ceil(float(step["grace_period"])) + STOP_MARGIN
