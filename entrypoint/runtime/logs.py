"""The step's output in the store, while it runs.

On a local store the segments are written where they belong. For a bucket they are written to the scratch directory first, and a
thread uploads each as it is closed, so that a store that answers slowly never holds up the step, and the next attempt on the same
machine finds what a dead one could not upload.
"""

from __future__ import annotations

import os

from backends.errors import InfraError
from backends.files import open_regular
from backends.store import keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.store.base import Store
    from backends.store.claims import Attempt

SEGMENT = 16 << 20  # bytes after which the next segment begins
FLUSH_EVERY = 5.0  # seconds between uploads


class Log:
    """Numbered segments of one attempt's output.

    Args:
        folder: where ``000001.txt`` and so on are written; made when the first byte comes.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.number = 0
        self.lost: OSError | None = None  # the log could not be written; the step goes on
        self._fd = -1
        self._size = 0

    def write(self, data: bytes) -> None:
        """Append; a disk that is full costs the log, not the step."""
        if self.lost is not None:
            return
        try:
            if self._fd < 0:
                self._next()
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
            self._size += len(data)
            if self._size >= SEGMENT:
                self.rotate()
        except OSError as error:
            self.lost = error

    def rotate(self) -> None:
        """Close the segment that is open, if any; the next byte starts another."""
        fd, self._fd, self._size = self._fd, -1, 0
        if fd >= 0:
            os.close(fd)

    def _next(self) -> None:
        name = os.path.join(self.folder, f"{self.number + 1:06d}.txt")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        try:
            self._fd = open_regular(name, flags)
        except FileNotFoundError:
            os.makedirs(self.folder, exist_ok=True)
            self._fd = open_regular(name, flags)
        self.number += 1


class Uploader:
    """Uploads a log's segments to a bucket and beats the heart, in a thread of its own.

    Args:
        store: a store that is not local.
        attempt: whose log it is.
        log: what to upload; its segments are removed once they are in the store.
        beat: called every ``heartbeat_every`` seconds.
        heartbeat_every: seconds.
    """

    def __init__(self, store: Store, attempt: Attempt, log: Log, beat: Callable[[], None], heartbeat_every: float) -> None:
        import threading

        self._store = store
        self._attempt = attempt
        self._log = log
        self._lock = threading.Lock()
        self._uploading = threading.Lock()
        self._over = threading.Event()
        self._beat = beat
        self._every = heartbeat_every
        self._uploaded = 0
        self._thread = threading.Thread(target=self._run, name="zen-runner-uploader", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Append to the log; called from the main thread."""
        with self._lock:
            self._log.write(data)

    def flush(self) -> None:
        """Upload all that is there.

        Raises:
            InfraError: the store did not take it.
        """
        with self._uploading:
            with self._lock:
                self._log.rotate()
                last = self._log.number
            while self._uploaded < last:
                name = f"{self._uploaded + 1:06d}.txt"
                path = os.path.join(self._log.folder, name)
                self._store.upload(f"{keys.logs(*self._attempt.place)}/{name}", path)
                self._uploaded += 1
                os.unlink(path)

    def close(self) -> None:
        """Stop the thread; ``flush`` stays usable."""
        self._over.set()
        self._thread.join(timeout=FLUSH_EVERY)

    def _run(self) -> None:
        from time import monotonic

        beat_at = monotonic() + self._every
        while not self._over.wait(FLUSH_EVERY):
            try:
                self.flush()
            except (InfraError, OSError):
                pass  # the next turn tries again; the end of the step tells if it still fails
            if monotonic() >= beat_at:
                beat_at = monotonic() + self._every
                self._beat()
