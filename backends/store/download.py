"""Downloads over HTTP: whole or failed, within a time, and stopped when asked.

The work is done on a thread of its own, since no timeout of a socket bounds the whole: names are looked up, and a server may
send a byte now and then. The caller only waits, and leaves it behind when its time is over.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from typing import Any, BinaryIO, Protocol
from urllib.error import HTTPError

from backends.store.base import trouble

BLOCK = 1 << 18  # bytes
WAITS = (0.5, 2.0)  # seconds before another try, unless the server names a longer time
PASSING = (408, 425, 429)  # statuses below 500 that say: not now. Source: RFC 9110 15.5.9, RFC 8470 5.2, RFC 6585 4
_SILENCE = 20.0  # seconds in which a server must send something
_LOOK = 0.05  # seconds between two looks at the time and at the caller's stop


class Sink(Protocol):
    """Where the bytes of one try go. What it raises ends the download, so it is none of the network's kinds of error."""

    def write(self, block: bytes, /) -> None: ...

    def close(self) -> None: ...


class File:
    """A sink that is a file, written anew by each try.

    Raises:
        InfraError: it can't be written.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._file = open(path, "wb", buffering=0)  # noqa: SIM115 - `close` closes it
        except OSError as error:
            raise trouble("write", path, error) from error

    def write(self, block: bytes, /) -> None:
        """Append a block."""
        view = memoryview(block)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise trouble("write", self._path, error) from error

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError as error:
            raise trouble("write", self._path, error) from error


class TooLong(Exception):
    """There is more than the sink takes."""


class Memory:
    """A sink that keeps a bounded number of bytes.

    Args:
        most: how many.

    Attributes:
        data: those of the last try.
    """

    def __init__(self, most: int) -> None:
        self.data = bytearray()
        self._most = most

    def open(self) -> Memory:
        """Begin anew."""
        self.data = bytearray()
        return self

    def write(self, block: bytes, /) -> None:
        """Append a block.

        Raises:
            TooLong: there are too many bytes.
        """
        self.data += block
        if len(self.data) > self._most:
            raise TooLong

    def close(self) -> None:
        """Keep what there is."""


class Refused(Exception):
    """The server has said no, and would say so again.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        super().__init__(f"the server answers HTTP {status} {reason}".rstrip())


class Broken(Exception):
    """The network or the server failed in a way that may pass; the message says how."""


class _Passing(Exception):
    """One try failed in a way that may pass.

    Attributes:
        wait: the seconds after which the server wants to be asked again; None if it doesn't say.
    """

    def __init__(self, message: str, wait: float | None = None) -> None:
        self.wait = wait
        super().__init__(message)


class Pace:
    """How long a download may take.

    Args:
        patience: seconds until the last try has begun to deliver.
        rate: bytes for which there is a second more.
    """

    __slots__ = ("patience", "rate")

    def __init__(self, patience: float, rate: int) -> None:
        self.patience = patience
        self.rate = rate


OF_A_CONFIG = Pace(30, 1 << 20)
OF_AN_INPUT = Pace(60, 1 << 14)


def download(url: str, open_sink: Callable[[], Sink], pace: Pace, check: Callable[[], None] | None = None) -> None:
    """Bring what is at a URL here, whole; 408, 425, 429, 5xx and broken connections are tried again.

    An answer that says neither its length nor where it ends is taken for whole when the connection closes.

    Args:
        url: ``http://`` or ``https://``, one that has no flaw.
        open_sink: called at each try; what it returns gets the bytes. What it or the sink raises ends the download.
        pace: how long it may take.
        check: called often; raises if the caller has to stop.

    Raises:
        Refused: the server says no.
        Broken: it could not be brought in time, or what came was cut off.
    """
    work = _Download(url, open_sink, pace)
    thread = threading.Thread(target=work.run, name="download", daemon=True)
    thread.start()
    try:
        while not work.done.wait(_LOOK):
            if check is not None:
                check()
            if time.monotonic() > work.end():
                raise Broken(f"after {time.monotonic() - work.began:.0f} s only {work.received:,} bytes have come")
    except BaseException:
        work.abandon()
        raise
    if work.error is not None:
        raise work.error


class _Download:
    """The part that the thread does."""

    def __init__(self, url: str, open_sink: Callable[[], Sink], pace: Pace) -> None:
        self.done = threading.Event()
        self.error: BaseException | None = None
        self.received = 0
        self.began = time.monotonic()
        self._url = url
        self._open_sink = open_sink
        self._pace = pace
        self._stop = threading.Event()
        self._sockets: list[socket.socket] = []

    def end(self) -> float:
        """Return the time at which it is over, by the monotonic clock."""
        return self.began + self._pace.patience + self.received / self._pace.rate

    def abandon(self) -> None:
        """Have the thread end soon, and write nothing more."""
        self._stop.set()
        for one in self._sockets:
            with contextlib.suppress(OSError, ValueError):
                one.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        """Try, and try again."""
        try:
            for wait in (*WAITS, None):
                try:
                    self._try()
                    return
                except _Passing as error:
                    pause = None if wait is None else max(wait, error.wait or 0)
                    if pause is None or time.monotonic() + pause > self.began + self._pace.patience:
                        raise Broken(str(error)) from error
                    self._stop.wait(pause)
                if self._stop.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            self.error = error
        finally:
            self.done.set()

    def _try(self) -> None:
        self.received = 0
        request = urllib.request.Request(self._url, headers={"User-Agent": "zen-runner"})  # noqa: S310 - the opener has no other schemes
        try:
            with _opener(self._sockets).open(request, timeout=_SILENCE) as answer, contextlib.closing(self._open_sink()) as sink:
                self._copy(answer, sink)
        except HTTPError as error:
            error.close()
            if error.code >= 500 or error.code in PASSING:
                wait = _seconds(error.headers.get("Retry-After"))
                raise _Passing(f"the server answers HTTP {error.code} {error.reason}".rstrip(), wait) from error
            raise Refused(error.code, str(error.reason)) from error
        except (OSError, HTTPException, ValueError) as error:
            raise _Passing(str(getattr(error, "reason", "") or error) or type(error).__name__) from error

    def _copy(self, answer: HTTPResponse, sink: Sink) -> None:
        expected = answer.length  # None where pieces say their own, or where the end of the connection is the end
        while expected is None or self.received < expected:
            block = answer.read1(BLOCK)
            if self._stop.is_set():
                return
            if not block:
                break
            self.received += len(block)
            sink.write(block)
        if expected is not None and self.received < expected:
            raise _Passing(f"the answer was cut off after {self.received:,} of {expected:,} bytes")


class _Lines:
    """What the head of an answer is read from: where that ends in the middle, ``http.client`` would take it for whole."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.close = file.close

    def readline(self, limit: int = -1) -> bytes:
        line = self._file.readline(limit)
        if not line:
            raise HTTPException("the answer was cut off before its body")
        return line


class _Answer(HTTPResponse):
    def begin(self) -> None:
        file: Any = self.fp
        lines: Any = _Lines(file)
        self.fp = lines
        try:
            super().begin()
        finally:
            if self.fp is lines:
                self.fp = file


class _Watched(urllib.request.AbstractHTTPHandler):
    """Opens connections, and notes their sockets."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        super().__init__()
        self._sockets = sockets

    def do_open(self, http_class: Any, req: urllib.request.Request, **arguments: Any) -> HTTPResponse:
        sockets = self._sockets

        class Connection(http_class):  # type: ignore[misc]
            response_class = _Answer

            def connect(self) -> None:
                super().connect()
                sockets.append(self.sock)

        answer: HTTPResponse = super().do_open(Connection, req, **arguments)
        return answer


class _Http(_Watched, urllib.request.HTTPHandler):
    pass


class _Https(_Watched, urllib.request.HTTPSHandler):
    pass


def _opener(sockets: list[socket.socket]) -> urllib.request.OpenerDirector:
    """Return what opens HTTP and HTTPS, and nothing else that a server may redirect to.

    Args:
        sockets: gets the socket of each connection.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        *(urllib.request.ProxyHandler(), _Http(sockets), _Https(sockets), urllib.request.HTTPDefaultErrorHandler()),
        *(urllib.request.HTTPRedirectHandler(), urllib.request.HTTPErrorProcessor(), urllib.request.UnknownHandler()),
    ):
        opener.add_handler(handler)
    return opener


def _seconds(text: str | None) -> float | None:
    """Return what ``Retry-After`` says, in seconds from now; None if nothing that can be read. Source: RFC 9110 10.2.3."""
    from email.utils import parsedate_to_datetime

    if text is None:
        return None
    if text.strip().isdecimal() and len(text) < 20:
        return float(text)
    try:
        return parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError, OSError):
        return None
