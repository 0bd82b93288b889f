"""What can go wrong with the embedded servers; each message is a sentence for the person who started them."""


class EmbeddedError(Exception):
    """An embedded server cannot be had; the message says why and what to do."""


class PortTaken(EmbeddedError):
    """A port that a server needs belongs to another program."""


class AlreadyRunning(EmbeddedError):
    """Another process runs the servers of the same directory."""


class ServerMissing(EmbeddedError):
    """A server's program is not on this machine and could not be fetched."""


class ServerFailed(EmbeddedError):
    """A server was started and did not come up; the message ends with the last lines of its log."""


class SupervisorGone(EmbeddedError):
    """The process that runs the servers does not answer: it has ended, or is ending."""
