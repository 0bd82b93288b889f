"""HTTP by hand, for requests that no client library would send."""

import socket
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self


class RawRequest:
    """One connection; what is sent on it, and what comes back."""

    def __init__(self, port: int, timeout: float = 20.0) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def head(self, path: str, *headers: str, method: str = "POST") -> Self:
        """Send the head of a request."""
        self.send("\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode())
        return self

    def send(self, data: bytes) -> int:
        """Send the data; return how many bytes left before the server closed the connection."""
        sent = 0
        try:
            while sent < len(data):
                sent += self._socket.send(data[sent : sent + 65_536])
        except OSError:
            pass
        return sent

    def drip(self, pieces: Iterable[bytes], pause: float) -> None:
        """Send piece after piece with a pause between them, until the server closes the connection."""
        for piece in pieces:
            if not self.send(piece):
                return
            time.sleep(pause)

    def response(self) -> tuple[int, str]:
        """Return status and the rest of the response until the server closes; status 0 where none came."""
        data = b""
        try:
            while piece := self._socket.recv(65_536):
                data += piece
        except OSError:
            pass
        status = data[9:12]
        return int(status) if status.isdigit() else 0, data.decode(errors="replace")
