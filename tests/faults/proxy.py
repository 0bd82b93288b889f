"""A TCP proxy on the loopback that loses what passes through it, in one direction or both, and tells nobody."""

import contextlib
import socket
import threading


class Proxy:
    """Passes connections on to `port`. What `freeze` and `swallow_replies` do concerns those that exist then."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []  # who connected, the server
        self._deaf: set[socket.socket] = set()  # sockets that get nothing any more
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def freeze(self) -> None:
        """From now on nothing passes in either direction, and no connection ends."""
        with self._lock:
            self._deaf.update(end for pair in self._pairs for end in pair)

    def swallow_replies(self) -> None:
        """From now on what the server answers is lost; what it is asked still arrives."""
        with self._lock:
            self._deaf.update(near for near, _ in self._pairs)

    def cut(self) -> None:
        """End the connections that exist."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def close(self) -> None:
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
        except OSError:  # the server is down: so are we
            near.close()
            return
        with self._lock:
            self._pairs.append((near, far))
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it ends with a reset too
            while data := source.recv(65536):
                if sink not in self._deaf:
                    sink.sendall(data)
        with contextlib.suppress(OSError):
            if sink not in self._deaf:
                sink.shutdown(socket.SHUT_RDWR)
