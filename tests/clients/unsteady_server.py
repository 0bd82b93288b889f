"""A server that refuses, drops and then answers, and keeps the keys of the requests that it received."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class UnsteadyServer(ThreadingHTTPServer):
    """Answers the first request with 503, drops the second, says of the third that it is in progress, then 201."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.keys: list[str | None] = []

    @property
    def url(self) -> str:
        """The address of the server."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: UnsteadyServer

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.keys.append(self.headers["Idempotency-Key"])
        number = len(self.server.keys)
        if number == 2:
            self.close_connection = True
            return
        self.send_response({1: 503, 3: 409}.get(number, 201))
        if number in (1, 3):
            self.send_header("Retry-After", "0")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def unsteady_server() -> Iterator[UnsteadyServer]:
    """Run the server inside the block."""
    server = UnsteadyServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
