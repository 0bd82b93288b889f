"""A TCP proxy on the loopback that loses bytes, as a radio link does, without either end noticing."""

import contextlib
import socket
import threading


class LossyProxy:
    """Passes connections on to `port` of the loopback.

    While `losing` is set, all bytes vanish; `freeze` and `swallow_replies` concern the connections that exist then.
    """

    def __init__(self, port: int) -> None:
        self._target, self.losing = port, threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []  # client, server
        self._silenced: set[socket.socket] = set()  # sockets to which nothing is sent any more
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def freeze(self) -> None:
        """Lose everything on the existing connections, in both directions; no connection ends."""
        with self._lock:
            self._silenced.update(end for pair in self._pairs for end in pair)

    def swallow_replies(self) -> None:
        """Lose what the server sends on the existing connections; what it receives still arrives."""
        with self._lock:
            self._silenced.update(near for near, _ in self._pairs)

    def cut(self) -> None:
        """End the existing connections."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def close(self) -> None:
        """End the existing connections, and accept no others."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self._server.accept()
                self._join(near)

    def _join(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(("127.0.0.1", self._target))
        except OSError:  # the server is down
            near.close()
            return
        with self._lock:
            self._pairs.append((near, far))
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it ends with a reset too
            while data := source.recv(65536):
                if sink not in self._silenced and not self.losing.is_set():
                    sink.sendall(data)
        with contextlib.suppress(OSError):
            if sink not in self._silenced:
                sink.shutdown(socket.SHUT_RDWR)
