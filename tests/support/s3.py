"""S3 as a server of this process: moto's, with faults."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class Quiet(WSGIRequestHandler):
    """A request handler that doesn't log."""

    def log(self, *_args: object) -> None:
        pass


class Server:
    """moto's S3 on the loopback; ``fault`` may answer in its stead, before or after the work."""

    def __init__(self, tls: tuple[str, str] | None = None) -> None:
        app = DomainDispatcherApplication(create_backend_app)
        atomic = threading.Lock()  # S3 decides conditional writes atomically; moto's threads alone don't
        self.fault: Callable[[dict[str, Any], Callable[[], Any]], Any] | None = None
        self.requests = 0

        def serve(environ: dict[str, Any], start: Any) -> Any:
            self.requests += 1
            with atomic:
                if self.fault is not None and (answer := self.fault(environ, lambda: list(app(environ, lambda *_: None)))):
                    return answer(environ, start)
                return app(environ, start)

        self._server = make_server("127.0.0.1", 0, serve, threaded=True, request_handler=Quiet, ssl_context=tls)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
