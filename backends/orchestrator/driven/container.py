"""One container of a step's attempt, as the client that follows it knows it.

             begins             ends            record made
    CREATED ────────▶ RUNNING ────────▶ ENDED ──────────────▶ SETTLED, to be removed
       │                 └── its own record is in the store ────▲
       └──── refused, or stopped before it began ───────────────┘

CREATED: here only; if the platform's answer was lost it may run all the same, under its name. RUNNING: the platform has started
it, and nobody has seen its end. ENDED: it runs no more, and what it did may be known from it alone. SETTLED: the attempt has its
record, so that nothing of the container is wanted any more; it may take another moment to end.
"""

from __future__ import annotations

import threading
from enum import Enum

from backends.orchestrator.driven.container_platform import STDERR
from backends.process import utc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from backends.orchestrator.driven.container_platform import ContainerStatus, Labels
    from backends.store.base import Store


TAIL = 2048  # bytes of output kept for a record that has to be made here
LAST_WORDS = 8192  # bytes that a line may have to be held back as the possible last words; they have 4096 at most
_WORDS_BEGIN = b'{"attempt":'  # canonical JSON: the first key in order


class Phase(Enum):
    """How far a container has come."""

    CREATED = 0
    RUNNING = 1
    ENDED = 2
    SETTLED = 3


class Container:
    """One container and what is known of it.

    Args:
        store: where its run lives.
        labels: whose it is.
        container_id: the platform's id; empty until it is started.

    Attributes:
        phase: how far it has come.
        started: when it began, or else when this client first knew of it, as RFC 3339.
        image: the digest of its image, if known.
        tail: the last that it printed.
        held: the last line on stderr while it may be the supervisor's last words.
    """

    def __init__(self, store: Store, labels: Labels, container_id: str = "") -> None:
        self.store = store
        self.labels = labels
        self.id = container_id
        self.phase = Phase.RUNNING if container_id else Phase.CREATED
        self.started = utc()
        self.image: str | None = None
        self.tail = b""
        self.held = b""
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    # -- the moves ---------------------------------------------------------------------------------------------------

    def begin(self, container_id: str) -> bool:
        """Note that the platform has started it, and return whether somebody asked it to stop meanwhile."""
        with self._lock:
            self.id = container_id
            self.phase = Phase.RUNNING
            return self._stopping.is_set()

    def note(self, status: ContainerStatus | None) -> None:
        """Take note of what the platform says; None means that the container is gone."""
        if status is not None:
            self.image = self.image or status.image
            self.started = status.started or self.started
        if self.phase is Phase.RUNNING and (status is None or status.has_ended()):
            self.phase = Phase.ENDED

    def settle(self) -> None:
        """Note that nothing of it is wanted any more."""
        self.phase = Phase.SETTLED

    # -- beside them -------------------------------------------------------------------------------------------------

    def ask_to_stop(self) -> bool:
        """Note that it shall stop, and return whether the platform is to be told: once, and if it may run."""
        with self._lock:
            first = not self._stopping.is_set()
            self._stopping.set()
            return first and self.phase is not Phase.CREATED  # else its own thread looks before and after the start

    def is_stopping(self) -> bool:
        """Return whether somebody asked it to stop."""
        return self._stopping.is_set()

    def take(self, stream: int, data: bytes) -> bytes:
        """Take output, and return what of it to pass on: a last line on stderr that may be the last words is held back."""
        self.tail = (self.tail + data)[-TAIL:]
        if stream != STDERR:
            return data
        data = self.held + data
        begin = data.rfind(b"\n", 0, -1) + 1
        line = data[begin:]
        holds = line[: len(_WORDS_BEGIN)] == _WORDS_BEGIN[: len(line)] and len(line) <= LAST_WORDS
        self.held = line if holds else b""
        return data[:begin] if holds else data
