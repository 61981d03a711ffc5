"""A platform: somewhere that runs one container, or one machine, to its end."""

from __future__ import annotations

from abc import ABC, abstractmethod

from backends import outcome
from backends.states import CANCELLED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from typing import Any

    Document = dict[str, Any]  # what a backend renders, in the platform's own form


WHOLE_RUN = ""
"""The key in a mapping of steps for what the platform says of the run as such."""


class JobStatus:
    """What a platform says of one job.

    Args:
        state: one of ``backends.states.STATES``. A failed attempt that the platform tries again is pending or running.
        message: the platform's own reason, also for what is pending.
        exit_code: the container's exit status, if known.
        kind: the class in the exit table, where the platform knows better than the exit status does.
        attempt: the attempt's number, if known.
        members: what is known of the parts of an array or a pipeline that differ from the whole, by index or by name.
    """

    __slots__ = ("attempt", "exit_code", "kind", "members", "message", "state")

    def __init__(
        self,
        state: str,
        message: str = "",
        *,
        exit_code: int | None = None,
        kind: str | None = None,
        attempt: int | None = None,
        members: Mapping[str, JobStatus] | None = None,
    ) -> None:
        self.state = state
        self.message = message
        self.exit_code = exit_code
        self.kind = kind
        self.attempt = attempt
        self.members = members or {}

    def verdict(self) -> tuple[str, int]:
        """Return class and exit status of a job that ended and left no record."""
        if self.kind is not None:
            return self.kind, outcome.code_of(self.kind)
        if self.state == CANCELLED:
            return outcome.TERMINATED, outcome.code_of(outcome.TERMINATED)
        if self.exit_code == 0:  # our supervisor never ends so without a record
            return outcome.CONFIG, outcome.code_of(outcome.CONFIG)
        if self.exit_code:
            return outcome.row_of(self.exit_code).name, self.exit_code
        return outcome.INFRA, outcome.code_of(outcome.INFRA)


class Platform(ABC):
    """A platform's API, as one process uses it.

    Every call repeats itself where that helps, and raises the project's errors. Caches, clients and the pace live here, since a
    backend is its arguments and does not change.

    Attributes:
        pace: seconds between two looks; a platform that is asked in many calls sets it anew after each look.
        doubtful: the last ``start`` raised, and may have been carried out all the same.
    """

    pace: float = 1.0
    doubtful: bool = False

    def check(self) -> None:
        """See, before anything is sent, that the platform takes jobs: queue, namespace, quota.

        Raises:
            ConfigError: it does not, for what the backend's arguments say.
            InfraError: it can't be asked.
        """
        return  # most platforms say so when a job is started

    def prepare(self, document: Document) -> None:
        """Take note of what jobs refer to and is no job itself, such as a definition; it is made when a job needs it."""
        raise ValueError(f"no job, and nothing that a job needs: {document}")

    @abstractmethod
    def start(self, document: Document, ids: Mapping[str, str]) -> str:
        """Start one job and return its id; one of its name that is there already is found, not started again.

        Args:
            document: what the backend rendered.
            ids: those of the jobs that were started before, by the job's name in the pipeline.

        Raises:
            ConfigError: the platform refused it.
            InfraError: the platform could not be reached; ``doubtful`` says whether the job may run.
        """

    @abstractmethod
    def find(self, prefix: str) -> dict[str, str]:
        """Return the ids of the jobs whose names begin with a prefix, by name."""

    @abstractmethod
    def look(self, ids: Collection[str]) -> dict[str, JobStatus]:
        """Return what the platform says of jobs, by id; one that it does not know is left out.

        Raises:
            InfraError: the platform could not be asked.
        """

    @abstractmethod
    def end(self, ids: Collection[str]) -> None:
        """End jobs, whatever state they are in; one that has ended, or is gone, is left as it is.

        Args:
            ids: in the order in which they were started.
        """

    def forget(self, job: str) -> None:
        """Remove what the platform keeps of a job that nobody asks for any more; it has ended, or is about to."""
        return  # most platforms do so by themselves

    def log(self, job: str, member: int | None = None) -> Iterator[bytes]:
        """Yield what the platform kept of a job's output, from its beginning.

        Args:
            job: its id.
            member: the index in an array.
        """
        return iter(())
