"""Downloads against servers that do what servers do when something breaks."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from backends.errors import ConfigError, InfraError, InputError
from backends.store import artifacts, download, urls
from backends.store.download import Memory, Pace
from entrypoint.runtime import load
from tests.support.configs import problems

Serve = Callable[..., str]
OK = b"HTTP/1.1 200 OK\r\n"
WHOLE = OK + b"Content-Length: 4\r\n\r\nabc\n"


def status(code: int, *headers: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {code} Some \x1b[31mreason", "Content-Length: 0", *headers, "", "")).encode("latin-1")


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that starts a server, which gives one answer to each connection, the last one for ever."""
    over = threading.Event()
    threads = []

    def start(*answers: bytes | Callable[[socket.socket, threading.Event], None]) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(0.05)

        def answer(connection: socket.socket, what: bytes | Callable[[socket.socket, threading.Event], None]) -> None:
            with connection, suppress(OSError):
                connection.recv(65536)
                connection.sendall(what) if isinstance(what, bytes) else what(connection, over)

        def run() -> None:
            left = list(answers)
            with listener:
                while not over.is_set():
                    with suppress(TimeoutError):
                        connection, _ = listener.accept()
                        one = left.pop(0) if len(left) > 1 else left[0]
                        threads.append(threading.Thread(target=answer, args=(connection, one)))
                        threads[-1].start()

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/x"

    yield start
    over.set()
    for thread in threads:
        thread.join()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "WAITS", (0.01, 0.02))


QUICK = Pace(5, 1 << 20)


def fetched(url: str, pace: Pace = QUICK, check: Callable[[], None] | None = None) -> bytes:
    sink = Memory(1 << 20)
    download.download(url, sink.open, pace, check)
    return bytes(sink.data)


CUT = {
    "content-length": OK + b"Content-Length: 1000000\r\n\r\n" + b"x" * 400_000,
    "nothing of it": OK + b"Content-Length: 10\r\n\r\n",
    "chunk": OK + b"Transfer-Encoding: chunked\r\n\r\nff\r\nabc",
    "between chunks": OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    "chunk's length": OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nf",
    "headers": OK + b"Content-Le",
    "between headers": OK + b"Server: x\r\n",
    "status": b"HTTP/1.1 200",
    "at once": b"",
    "no HTTP": b"SSH-2.0-OpenSSH\r\n",
}


@pytest.mark.parametrize("answer", CUT.values(), ids=CUT)
def test_what_is_cut_off_is_never_taken_for_whole(serve: Serve, tmp_path: Path, answer: bytes) -> None:
    url = serve(answer)
    with pytest.raises(download.Broken):
        fetched(url)
    with pytest.raises(InfraError, match="could not be read"):
        artifacts.fetch_url(url, str(tmp_path))
    for config in (url, f"ref:{url}#sha256={'0' * 64}"):
        with pytest.raises(InfraError, match="can't be fetched"):
            load.find(None if config != url else config, {"ZEN_RUNNER_CONFIG": config})
    assert fetched(serve(answer, answer, WHOLE)) == b"abc\n"  # and is tried again, from the beginning


@pytest.mark.parametrize(
    "answer",
    [
        WHOLE,
        WHOLE + b"more",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n2\r\nc\n\r\n0\r\n\r\n",
        OK + b"\r\nabc\n",  # says nothing of its length
        b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nabc\n",
    ],
)
def test_what_is_whole(serve: Serve, answer: bytes) -> None:
    assert fetched(serve(answer)) == b"abc\n"


PASSING = (408, 425, 429, 500, 502, 503, 504)


@pytest.mark.parametrize("code", PASSING)
def test_a_status_that_passes(serve: Serve, tmp_path: Path, code: int) -> None:
    assert fetched(serve(status(code), WHOLE)) == b"abc\n"
    url = serve(status(code))
    with pytest.raises(InfraError, match=str(code)):
        artifacts.fetch_url(url, str(tmp_path))
    with pytest.raises(InfraError, match=str(code)):
        load.find(url, {})


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 418, 451])
def test_a_status_that_stays(serve: Serve, tmp_path: Path, code: int) -> None:
    url = serve(status(code), WHOLE, status(code))
    with pytest.raises(InputError, match=f"HTTP {code}"):  # or a second try would get it
        artifacts.fetch_url(url, str(tmp_path))
    kind = ConfigError if code in (404, 410) else InfraError
    with pytest.raises(kind, match=f"HTTP {code}"):
        load.find(serve(status(code)), {})


def test_a_server_is_asked_again_when_it_says(serve: Serve) -> None:
    began = time.monotonic()
    assert fetched(serve(status(429, "Retry-After: 1"), WHOLE)) == b"abc\n"
    assert time.monotonic() - began >= 1
    assert fetched(serve(status(503, "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT"), WHOLE)) == b"abc\n"
    for odd in ("soon", "-1", "1e9", "", "9" * 30):
        assert fetched(serve(status(503, f"Retry-After: {odd}"), WHOLE)) == b"abc\n"
    with pytest.raises(download.Broken, match="503"):  # and not an hour from now
        fetched(serve(status(503, "Retry-After: 3600"), WHOLE))


def _silent(connection: socket.socket, over: threading.Event) -> None:
    over.wait()


def _dripping(head: bytes, drop: bytes) -> Callable[[socket.socket, threading.Event], None]:
    def drip(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(head)
        while not over.wait(0.05):
            connection.sendall(drop)

    return drip


SLOW = {
    "silent": _silent,
    "headers": _dripping(OK, b"X"),
    "header lines": _dripping(OK, b"A: b\r\n"),
    "body": _dripping(OK + b"Content-Length: 100000\r\n\r\n", b"x"),
    "chunks": _dripping(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "chunk's length": _dripping(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "for ever": _dripping(OK + b"\r\n", b"x"),
    "again and again": status(503, "Retry-After: 0"),
}


@pytest.mark.parametrize("answer", SLOW.values(), ids=SLOW)
def test_a_slow_server_has_an_end(serve: Serve, answer: Callable[[socket.socket, threading.Event], None]) -> None:
    began = time.monotonic()
    with pytest.raises(download.Broken):
        fetched(serve(answer), Pace(0.5, 1 << 20))
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("answer", SLOW.values(), ids=SLOW)
def test_a_stop_is_served_meanwhile(serve: Serve, monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    monkeypatch.setattr(download, "WAITS", (9.0,))
    began = time.monotonic()

    def check() -> None:
        if time.monotonic() - began > 0.3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fetched(serve(answer), Pace(60, 1), check)
    assert time.monotonic() - began < 1


def test_what_keeps_coming_may_take_its_time(serve: Serve) -> None:
    def steadily(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(OK + b"Content-Length: 100000\r\n\r\n")
        for _ in range(20):
            time.sleep(0.05)
            connection.sendall(b"x" * 5000)

    assert len(fetched(serve(steadily), Pace(0.4, 10_000))) == 100_000


def test_too_long_a_config_is_not_read_to_its_end(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "MAX_BYTES", 1 << 20)
    with pytest.raises(ConfigError, match="more than 1 MiB"):
        load.find(serve(_dripping(OK + b"\r\n", b"x" * (1 << 19))), {})


def test_a_full_disk_is_no_fault_of_the_network(serve: Serve) -> None:
    with pytest.raises(InfraError, match="cannot write /dev/full: No space left on device"):
        download.download(serve(WHOLE), lambda: download.File("/dev/full"), Pace(5, 1))


@pytest.mark.parametrize("to", ["ftp://127.0.0.1:9/x", "file:///etc/passwd", "data:,x", "http://127.0.0.1:99999/", "//[x/"])
def test_a_redirect_leads_nowhere_else(serve: Serve, tmp_path: Path, to: str) -> None:
    with pytest.raises((InfraError, InputError)):
        artifacts.fetch_url(serve(status(302, f"Location: {to}")), str(tmp_path))


def test_a_redirect_is_followed(serve: Serve) -> None:
    assert fetched(serve(status(302, f"Location: {serve(WHOLE)}"))) == b"abc\n"


WRONG = {
    "http://h/a b": r"character ' '.*%20",
    "http://h/a\r\nX: y": r"character '\\r'.*%0D",
    "http://h/\x1b[31m": r"character '\\x1b'",
    "http://h:99999/x": "port '99999'",
    "http://h:0/x": "port '0'",
    "http://h:http/x": "port 'http'",
    "http://h:-1/x": "port '-1'",
    "http:///x": "host '' is none",
    "http://": "host '' is none",
    "http://:80/x": "host '' is none",
    "http://?x": "host '' is none",
    "http://a..b/x": "host 'a..b' is none",
    "http://" + "a" * 64 + ".org/x": "is none",
    "http://[x]/y": "no IPv6 address",
    "http://[::1/y": "no IPv6 address",
    "http://[::1]x/y": "no IPv6 address",
    "http://a[b/y": "is none",
    "https://h/é": "percent signs",
    "https://u:p@h/x": "user or password",
}


@pytest.mark.parametrize("url", WRONG)
def test_a_url_that_cannot_be_one_is_the_configs_fault(url: str, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError, match=WRONG[url]):
        load.find(url, {})
    with pytest.raises(ConfigError, match=WRONG[url]):
        artifacts.fetch_url(url, str(tmp_path))
    assert time.monotonic() - began < 0.5
    said = problems(json.dumps({"version": 1, "steps": {"a": {"run": ["x"], "inputs": {"i": url}}}}))
    assert len(said) == 1 and said[0].startswith("cfg.yaml:1: steps.a.inputs.i: the URL")


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "http://h/",
        "https://h.example.:8080/a?b=c&d=%20#e",
        "http://[::1]:80/x",
        "http://1.2.3.4/",
        "http://bücher.de/x",
    ],
)
def test_a_url_that_can_be_one(url: str) -> None:
    assert urls.flaw(url) is None
