"""The socket on which Beam's program and its ParDos speak to the driver: one line of JSON per word."""

from __future__ import annotations

import selectors
import socket
import threading

from backends import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Listener:
    """Hears what is said on a socket, in a thread of its own.

    Args:
        path: the socket's.
        hear: called with each word and the connection that it came on.
        gone: called with a connection that was closed; True ends the listening.
    """

    def __init__(
        self, path: str, hear: Callable[[socket.socket, dict[str, Any]], None], gone: Callable[[socket.socket], bool]
    ) -> None:
        self._hear = hear
        self._gone = gone
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(path)
        self._socket.listen(64)

    def start(self) -> None:
        """Begin to listen."""
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        close(self._socket)

    def _listen(self) -> None:
        partial: dict[socket.socket, bytes] = {}
        with selectors.DefaultSelector() as selector:
            try:
                selector.register(self._socket, selectors.EVENT_READ)
                while True:
                    for key, _ in selector.select():
                        connection = key.fileobj
                        assert isinstance(connection, socket.socket)
                        if connection is self._socket:
                            accepted, _address = connection.accept()
                            selector.register(accepted, selectors.EVENT_READ)
                            partial[accepted] = b""
                        elif data := _receive(connection):
                            *lines, partial[connection] = (partial[connection] + data).split(b"\n")
                            for line in lines:
                                self._hear(connection, wire.loads(line.decode()))
                        else:
                            selector.unregister(connection)
                            partial.pop(connection)
                            if self._gone(connection):
                                return
            except (OSError, ValueError):
                pass  # closed


def say(connection: socket.socket, **word: Any) -> None:
    """Say one word; who is gone does not hear it."""
    try:
        connection.sendall(wire.dumps(word).encode() + b"\n")
    except OSError:
        pass


def close(connection: socket.socket) -> None:
    """Close a socket and wake the thread that reads it."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    connection.close()


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except OSError:
        return b""
