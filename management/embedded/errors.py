"""Errors of the embedded servers. Each message is a sentence for the user who started them."""


class EmbeddedError(Exception):
    """An embedded server is not available; the message says why and what to do."""


class PortTaken(EmbeddedError):
    """A port that a server needs is in use by another program."""


class AlreadyRunning(EmbeddedError):
    """Another process runs the servers of the same directory."""


class ServerMissing(EmbeddedError):
    """A server's program is not installed and could not be downloaded."""


class ServerFailed(EmbeddedError):
    """A server did not become ready after its start; the message ends with the last lines of its log."""


class SupervisorGone(EmbeddedError):
    """The supervisor of the servers does not answer: it has ended or is ending."""
