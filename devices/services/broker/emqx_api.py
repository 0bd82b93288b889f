"""Client of EMQX's management API, to close sessions. EMQX authenticates through the platform at each connection.

A client to block is first denied by the database, then banned, then disconnected. The short ban covers a connection
that was authenticated before the database changed and completes after the disconnection.
"""

import itertools
import time
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import requests
from django.conf import settings

from devices.services.broker.errors import BrokerRefused, BrokerUnavailable
from tenants.infrastructure.chunks import chunks
from tenants.infrastructure.secret_values import reveal

BAN_SECONDS = 30
_TIMEOUT = (2.0, 5.0)
_BATCH = 500
_PAGE = 5000
# EMQX responds 400 with this code if the ban already exists.
_BANNED_ALREADY = "ALREADY_EXISTS"


def ban(names: Iterable[str], reason: str) -> None:
    """Ban the client ids for half a minute and close their sessions. Raises BrokerUnavailable."""
    names = list(names)
    with _session() as session:
        for name in names:
            _ban(session, name, reason)
        _kick(session, names)


def disconnect(names: Iterable[str]) -> None:
    """Close the sessions of the client ids, which may reconnect at once. Raises BrokerUnavailable."""
    with _session() as session:
        _kick(session, list(names))


def unban(names: Iterable[str]) -> None:
    """Lift the bans of the client ids, if any. Raises BrokerUnavailable."""
    with _session() as session:
        for name in names:
            _request(session, "DELETE", f"/banned/clientid/{quote(name, safe='')}", (204, 404))


def connected_clients() -> set[str]:
    """Return the client ids of all sessions. Raises BrokerUnavailable."""
    names: set[str] = set()
    with _session() as session:
        for page in itertools.count(1):
            answer = _request(session, "GET", f"/clients?page={page}&limit={_PAGE}&fields=clientid", (200,)).json()
            names |= {row["clientid"] for row in answer["data"]}
            if not answer["meta"].get("hasnext"):
                break
    return names


def _ban(session: requests.Session, name: str, reason: str) -> None:
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + BAN_SECONDS))
    ban = {"as": "clientid", "who": name, "by": "gwanje", "reason": reason, "until": until}
    answer = _request(session, "POST", "/banned", (200, 400), ban)
    if answer.status_code == 400 and _BANNED_ALREADY not in answer.text:
        raise BrokerRefused(f"EMQX refused the ban of {name}: {answer.text[:200]}")


def _kick(session: requests.Session, names: Sequence[str]) -> None:
    for chunk in chunks(names, _BATCH):
        _request(session, "POST", "/clients/kickout/bulk", (204,), chunk)


def _session() -> requests.Session:
    url = urlsplit(reveal(settings.EMQX_API_URL))
    session = requests.Session()
    session.trust_env = False  # the broker is not behind this machine's proxy, nor is its key in a .netrc
    session.auth = (unquote(url.username or ""), unquote(url.password or ""))
    return session


def _request(
    session: requests.Session, method: str, path: str, expected: tuple[int, ...], body: Any = None
) -> requests.Response:
    url = urlsplit(reveal(settings.EMQX_API_URL))
    base = urlunsplit((url.scheme, url.netloc.rpartition("@")[2], url.path.rstrip("/"), "", ""))
    try:
        answer = session.request(method, f"{base}/api/v5{path}", json=body, timeout=_TIMEOUT, allow_redirects=False)
    except requests.RequestException as error:
        raise BrokerUnavailable(f"EMQX's management API at {base}: {type(error).__name__}") from error
    if answer.status_code not in expected:
        raise BrokerRefused(f"EMQX responded {answer.status_code} to {method} {path}: {answer.text[:200]}")
    return answer
