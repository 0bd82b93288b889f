"""Authorities and certificates of tests, as files, and servers that speak TLS with them."""

import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import trustme

from management.embedded.stack import EmbeddedStack

from .processes import free_port

_SSL_REQUEST = bytes.fromhex("0000000804d2162f")
_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files: the certificate of 127.0.0.1 and localhost with its key, its authority, and another authority."""

    certificate: Path
    key: Path
    authority: Path
    wrong_authority: Path

    def server_context(self) -> ssl.SSLContext:
        """Return the context of a server with this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


def make_certificates(directory: Path) -> Certificates:
    """Write new ones into the directory; every user may read them."""
    authority, other = trustme.CA(), trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    names = ("certificate.pem", "key.pem", "authority.pem", "wrong-authority.pem")
    made = Certificates(*(directory / name for name in names))
    issued.cert_chain_pems[0].write_to_path(made.certificate)
    issued.private_key_pem.write_to_path(made.key)
    authority.cert_pem.write_to_path(made.authority)
    other.cert_pem.write_to_path(made.wrong_authority)
    for path in (made.certificate, made.key, made.authority, made.wrong_authority):
        path.chmod(0o644)
    return made


@dataclass(slots=True)
class Connections:
    """The connections that a proxy received: `encrypted` ones, `plain` ones, and those that the client `refused`."""

    port: int
    encrypted: int = 0
    plain: int = 0
    refused: list[str] = field(default_factory=list)


@contextmanager
def postgresql_over_tls(host: str, port: int, certificates: Certificates) -> Iterator[Connections]:
    """Forward connections to a PostgreSQL without TLS, and speak TLS with the clients; plain ones are forwarded too."""
    listening = socket.create_server(("127.0.0.1", 0))
    connections = Connections(listening.getsockname()[1])
    context = certificates.server_context()

    def serve(client: socket.socket) -> None:
        try:
            start = client.recv(8, socket.MSG_PEEK | socket.MSG_WAITALL)
            if start == _SSL_REQUEST:
                client.recv(8)
                client.sendall(b"S")
                client = context.wrap_socket(client, server_side=True)
                # In TLS 1.3 a client rejects the certificate after its own part of the handshake: its first message
                # shows that it has not.
                if not client.recv(0) and not (first := client.recv(_CHUNK)):
                    raise ssl.SSLError("closed by the client")
                connections.encrypted += 1
            else:
                first = b""
                connections.plain += bool(start)
        except OSError as error:
            connections.refused.append(str(error))
            client.close()
            return
        server = socket.create_connection((host, port))
        server.sendall(first)
        threading.Thread(target=_forward, args=(server, client), daemon=True).start()
        _forward(client, server)

    def accept() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield connections
    finally:
        # Closing alone does not wake a thread that accepts.
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def _forward(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(_CHUNK):
            target.sendall(data)
    except OSError:
        pass
    finally:
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def add_tls_listener(stack: EmbeddedStack, certificates: Certificates) -> dict[str, str]:
    """Let the embedded broker listen with TLS too, and restart it; return the environment that makes a process use it.

    The listener is in the broker's configuration until the servers are prepared anew.
    """
    port, configuration = free_port(), stack.var / "mosquitto" / "mosquitto.conf"
    lines = [f"listener {port} 127.0.0.1", f"certfile {certificates.certificate}", f"keyfile {certificates.key}"]
    configuration.write_text("\n".join([configuration.read_text(), *lines, ""]))
    stack.restart("mosquitto")
    login = urlsplit(os.environ["MQTT_URL"]).netloc.rpartition("@")[0]
    return {"MQTT_URL": f"mqtts://{login}@127.0.0.1:{port}", "MQTT_CA_FILE": str(certificates.authority)}
