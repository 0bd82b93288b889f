"""Accounts of devices and apps at the broker, Mosquitto or EMQX.

Mosquitto has accounts of its own: they are created, changed and removed here (`MQTT_ADMIN_URL`). EMQX queries the
platform at each connection (see `authentication`): only live sessions are closed here (`EMQX_API_URL`). Without either
setting nothing is done. `topic_rules` defines what the accounts may do.

Every function raises BrokerUnavailable if the broker fails. Call them after the commit, so that a disconnected client
is not admitted again.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from uuid import UUID

from django.conf import settings

from devices.services.broker.errors import BrokerRefused, BrokerUnavailable

from . import emqx_api, mosquitto_control

__all__ = ["BrokerRefused", "BrokerUnavailable"]

logger = logging.getLogger(__name__)

_collected: ContextVar[dict[UUID, str] | None] = ContextVar("collected", default=None)


def is_managed() -> bool:
    """Return whether the platform manages the broker's accounts (Mosquitto)."""
    return bool(settings.MQTT_ADMIN_URL)


@contextmanager
def batch_grants() -> Iterator[None]:
    """Create the accounts of all devices registered inside the block at its end, over one connection.

    For many devices in a background task: with 10,000 accounts, Mosquitto needs 50 ms for each new one. If the broker
    is unavailable, or this process dies, `manage.py sync_broker` creates them later.
    """
    if _collected.get() is not None:
        yield
        return
    collected: dict[UUID, str] = {}
    token = _collected.set(collected)
    try:
        yield
    finally:
        _collected.reset(token)
        try:
            grant_devices(collected.items())
        except BrokerUnavailable as error:
            logger.warning("%d devices may have no account at the broker yet (%s)", len(collected), error)


def grant_devices(accounts: Iterable[tuple[UUID, str]], *, renew: bool = True) -> None:
    """Create the devices' accounts (UUID, password) over one connection.

    With `renew`, existing accounts get the password, which closes their sessions; without it they stay unchanged.
    """
    collected = _collected.get()
    if collected is not None and renew:
        collected.update(accounts)
        return
    passwords = {str(uuid): password for uuid, password in accounts}
    if is_managed() and passwords:
        (mosquitto_control.grant_devices if renew else mosquitto_control.create_devices)(passwords)


def revoke_devices(uuids: Iterable[UUID]) -> None:
    """Remove the devices' accounts and close their sessions."""
    uuids = list(uuids)
    for uuid in uuids:
        (_collected.get() or {}).pop(uuid, None)
    _revoke([str(uuid) for uuid in uuids])


def allow_devices(uuids: Iterable[UUID], allowed: bool) -> None:
    """Admit the devices, or block them for now, which closes their sessions."""
    _allow([str(uuid) for uuid in uuids], allowed)


def disconnect(uuids: Iterable[UUID]) -> None:
    """Close the devices' sessions. The accounts stay: a device may reconnect with credentials that are valid then."""
    names = [str(uuid) for uuid in uuids]
    if is_managed():
        mosquitto_control.disconnect(names)
    if settings.EMQX_API_URL and names:
        emqx_api.disconnect(names)


def grant_app(slug: str, name: str, password: str) -> None:
    """Create the account of an app of the tenant."""
    if is_managed():
        mosquitto_control.grant_app(slug, name, password)


def revoke_apps(names: Iterable[str]) -> None:
    """Remove the apps' accounts and close their sessions."""
    _revoke(list(names))


def allow_apps(names: Iterable[str], allowed: bool) -> None:
    """Admit the apps, or block them for now, which closes their sessions."""
    _allow(list(names), allowed)


def accounts() -> dict[str, bool]:
    """Return the names of Mosquitto's accounts with whether they are enabled; empty for EMQX."""
    return mosquitto_control.accounts() if is_managed() else {}


def sessions() -> set[str]:
    """Return the connected client ids, if the broker is EMQX."""
    return emqx_api.connected_clients() if settings.EMQX_API_URL else set()


def ban(names: Iterable[str]) -> None:
    """Close the sessions of clients that are not admitted, if the broker is EMQX."""
    names = list(names)
    if settings.EMQX_API_URL and names:
        emqx_api.ban(names, "not admitted")


def _revoke(names: list[str]) -> None:
    if is_managed():
        mosquitto_control.remove(names)
    if settings.EMQX_API_URL and names:
        emqx_api.ban(names, "revoked")


def _allow(names: list[str], allowed: bool) -> None:
    if is_managed():
        mosquitto_control.allow(names, allowed)
    if settings.EMQX_API_URL and names and allowed:
        emqx_api.unban(names)
    elif settings.EMQX_API_URL and names:
        emqx_api.ban(names, "blocked for now")
