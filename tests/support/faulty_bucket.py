"""A bucket that answers as it is told: as much of S3 as a store needs, with a fault for some requests."""

from __future__ import annotations

import email.utils
import hashlib
import http.server
import socket
import struct
import threading
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

RESET = struct.pack("ii", 1, 0)  # closing with this SO_LINGER sends RST


class FaultyBucket:
    """The server, with everything in memory; faults are handed out to the requests that come next.

    Attributes:
        url: where it listens.
        faults_left: how many requests will still fail.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.faults_left = 0
        self._fault: int | str = 503
        self._only = ""
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FaultyBucket:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def clear(self) -> None:
        """Hold nothing, and let nothing fail."""
        self.objects.clear()
        self.answer_with(503, times=0)

    def answer_with(self, fault: int | str, *, times: int, only: str = "") -> None:
        """Let the next requests fail.

        Args:
            fault: a status; ``reset`` (the connection is dropped, nothing is done), ``lost`` (it is dropped when all is done),
                ``mute`` (no answer at all), ``done, then 500``.
            times: how many.
            only: a method and how the key ends, such as ``PUT claim.json``; empty for every request.
        """
        with self._lock:
            self._fault, self.faults_left, self._only = fault, times, only

    def _take(self, method: str, key: str) -> int | str | None:
        verb, _, ending = self._only.partition(" ")
        with self._lock:
            if not self.faults_left or (self._only and not (method == verb and key.endswith(ending))):
                return None
            self.faults_left -= 1
            return self._fault

    def _do(self, method: str, key: str, query: dict[str, list[str]], headers: Any, body: bytes) -> tuple[int, bytes, str | None]:
        """Return status, body, and the range if only a part is meant."""
        with self._lock:
            if method == "POST":  # of many keys, but the client names one at a time
                name = body.decode().partition("<Key>")[2].partition("</Key>")[0]
                self.objects.pop(name, None)
                return 200, f"<DeleteResult><Deleted><Key>{escape(name)}</Key></Deleted></DeleteResult>".encode(), None
            if method == "PUT":
                if headers.get("If-None-Match") == "*" and key in self.objects:
                    return 412, b"", None
                self.objects[key] = body
                return 200, b"", None
            if method == "DELETE":
                self.objects.pop(key, None)
                return 204, b"", None
            if "list-type" in query:
                return 200, self._listing(query), None
            if key not in self.objects:
                return 404, b"<Error><Code>NoSuchKey</Code></Error>", None
            data = self.objects[key]
            if asked := headers.get("Range"):
                first = int(asked.removeprefix("bytes=").partition("-")[0])
                return 206, data[first:], f"bytes {first}-{len(data) - 1}/{len(data)}"
            return 200, data, None

    def _listing(self, query: dict[str, list[str]]) -> bytes:
        prefix = query.get("prefix", [""])[0]
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f'<ETag>"x"</ETag><Size>{len(data)}</Size></Contents>'
            for key, data in sorted(self.objects.items())
            if key.startswith(prefix) and "/" not in key[len(prefix) :]
        )
        folders = {key[: key.index("/", len(prefix)) + 1] for key in self.objects if "/" in key[len(prefix) :]}
        found += "".join(
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            for name in sorted(folders)
            if name.startswith(prefix)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        bucket = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_args: Any) -> None:
                pass

            def handle(self) -> None:
                try:
                    super().handle()
                except ConnectionError:
                    pass

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                parts = urlsplit(self.path)
                key = unquote(parts.path).removeprefix("/zen").lstrip("/")
                fault = bucket._take(self.command, key)
                if fault == "mute":
                    bucket._over.wait(20)
                    self.drop()
                elif fault == "reset":
                    self.drop()
                elif isinstance(fault, int):
                    self.say(fault, b"<Error><Code>Fault</Code></Error>", None)
                else:
                    found = bucket._do(self.command, key, parse_qs(parts.query), self.headers, body)
                    if fault == "lost":
                        self.drop()
                    elif fault is not None:
                        self.say(500, b"", None)
                    else:
                        self.say(*found)

            def say(self, status: int, data: bytes, part: str | None) -> None:
                self.send_response(status)
                self.send_header("ETag", f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"')
                self.send_header("Last-Modified", email.utils.formatdate(usegmt=True))
                if status in (429, 503):
                    self.send_header("Retry-After", "1")
                if part:
                    self.send_header("Content-Range", part)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def drop(self) -> None:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                self.close_connection = True
                self.connection.close()
                raise ConnectionResetError

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

        return Handler
