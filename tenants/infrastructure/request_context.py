"""The id and the client address of the request that is being processed, for log lines and audit entries."""

import logging
import re
from contextvars import ContextVar
from typing import NamedTuple
from uuid import uuid4

# What a client may choose: short, and harmless in a log line.
_WELL_FORMED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")


class RequestContext(NamedTuple):
    """The request's id and the address of its client; both empty outside of requests."""

    request_id: str = ""
    address: str = ""


_NONE = RequestContext()
current: ContextVar[RequestContext] = ContextVar("request", default=_NONE)


def request_id_from(given: str) -> str:
    """Return the id that a client sent, if it is well-formed, or a new one."""
    return given if _WELL_FORMED.fullmatch(given) else uuid4().hex


class RequestIdFilter(logging.Filter):
    """Adds `request_id` to log records; `-` outside of requests."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Set the record's `request_id`, and let it pass."""
        record.request_id = current.get().request_id or "-"
        return True
