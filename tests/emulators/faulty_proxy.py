"""A proxy on the loopback, in front of an AWS emulator, that counts calls and answers some of them with a fault.

    with faulty_proxy(server.url) as proxy:
        proxy.fault("SubmitJob", at=(3, 4), kind="throttle")
        …
        assert proxy.calls["SubmitJob"] == 12

Batch's calls have the API's names, those of S3 and CloudWatch Logs are ``s3.GET``, ``logs.GetLogEvents`` and so on.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Any
from urllib.parse import urlsplit

_HOP = frozenset(("connection", "keep-alive", "transfer-encoding", "host", "proxy-connection"))
_BATCH = {
    name.lower(): name
    for name in (
        *("SubmitJob", "DescribeJobs", "ListJobs", "TerminateJob", "CancelJob", "DescribeJobQueues"),
        *("RegisterJobDefinition", "DescribeJobDefinitions", "TagResource"),
    )
}
# kind: status, error code, message. `reset` drops the connection before the call is passed on; `lost` after it was carried out.
_ANSWERS = {
    "throttle": (429, "TooManyRequestsException", "Too Many Requests"),
    "throttle400": (400, "ThrottlingException", "Rate exceeded"),
    "broken": (500, "ServerException", "An internal error occurred"),
    "unavailable": (503, "ServiceUnavailable", "Service Unavailable"),
    "denied": (403, "AccessDeniedException", "User is not authorized to perform this action"),
    "stranger": (403, "UnrecognizedClientException", "The security token included in the request is invalid."),
}


class FaultyProxy:
    """The proxy.

    Attributes:
        url: where it listens.
        calls: how often each call was made, those with a fault included.
    """

    def __init__(self, upstream: str) -> None:
        self.calls: Counter[str] = Counter()
        self._faults: list[tuple[str, Collection[int] | None, str | Callable[[], None]]] = []
        self._lock = threading.Lock()
        self._upstream = urlsplit(upstream)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def fault(self, call: str, *, at: Collection[int] | None = None, kind: str | Callable[[], None]) -> None:
        """Let some calls fail.

        Args:
            call: its name, such as ``SubmitJob``.
            at: which ones by number, from 1 and from now on; None for all.
            kind: ``throttle``, ``throttle400``, ``broken``, ``unavailable``, ``denied``, ``stranger``, ``reset``, ``lost``; or
                what is to be done before the call is passed on.
        """
        with self._lock:
            before = self.calls[call]
            self._faults.append((call, None if at is None else {number + before for number in at}, kind))

    def clear(self) -> None:
        """No more faults, and count from 0."""
        with self._lock:
            self._faults.clear()
            self.calls.clear()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _take(self, call: str) -> str | Callable[[], None] | None:
        with self._lock:
            self.calls[call] += 1
            number = self.calls[call]
            return next((kind for name, at, kind in self._faults if name == call and (at is None or number in at)), None)

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 120

            def setup(self) -> None:
                super().setup()
                self.upstream = http.client.HTTPConnection(proxy._upstream.hostname or "", proxy._upstream.port, timeout=120)

            def finish(self) -> None:
                self.upstream.close()
                super().finish()

            def log_message(self, *_args: Any) -> None:
                pass

            def handle(self) -> None:
                with contextlib.suppress(ConnectionError):
                    super().handle()

            def answer(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(size)
                kind = proxy._take(_name(self))
                if callable(kind):
                    kind()
                elif kind in _ANSWERS:
                    self.refuse(*_ANSWERS[kind])
                    return
                elif kind == "reset":
                    self.drop()
                    return
                status, headers, data = self.forward(body)
                if kind == "lost":
                    self.drop()
                    return
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in _HOP and not (name.lower() == "content-length" and self.command != "HEAD"):
                        self.send_header(name, value)
                if self.command != "HEAD":
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
                headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
                headers["Host"] = self.headers["Host"]
                for turn in (1, 2):  # a kept connection may have been closed meanwhile
                    try:
                        self.upstream.request(self.command, self.path, body=body, headers=headers)
                        answer = self.upstream.getresponse()
                        return answer.status, answer.getheaders(), answer.read()
                    except http.client.RemoteDisconnected:
                        self.upstream.close()
                        if turn == 2:
                            raise
                raise AssertionError

            def refuse(self, status: int, code: str, message: str) -> None:
                data = json.dumps({"message": message, "__type": code}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("x-amzn-ErrorType", code)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def drop(self) -> None:
                # Closing with this option sends RST instead of FIN.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()
                raise ConnectionResetError

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

        return Handler


def _name(request: http.server.BaseHTTPRequestHandler) -> str:
    target = request.headers.get("X-Amz-Target")
    if target:
        return f"logs.{target.rpartition('.')[2]}"
    path = urlsplit(request.path).path
    if path.startswith("/v1/"):
        return _BATCH.get(path.split("/")[2], path)
    return f"s3.{request.command}"


@contextlib.contextmanager
def faulty_proxy(upstream: str) -> Iterator[FaultyProxy]:
    """Run a proxy in front of a server.

    Args:
        upstream: the server's URL.
    """
    proxy = FaultyProxy(upstream)
    try:
        yield proxy
    finally:
        proxy.close()
