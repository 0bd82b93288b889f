"""Devices' and apps' accounts at the broker, whichever it is.

Mosquitto keeps accounts of its own: they are made, changed and removed here (`MQTT_ADMIN_URL`). EMQX asks the platform
at each connection (see `authentication`): only live sessions are ended here (`EMQX_API_URL`). Where neither
is configured nothing is done. What the accounts may do is said in `topic_rules`.

Every function raises BrokerUnavailable where the broker does not do its part. Call them after the commit, so that who
is thrown out is not let in again.
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
    """Whether this platform keeps the broker's accounts (Mosquitto)."""
    return bool(settings.MQTT_ADMIN_URL)


@contextmanager
def together() -> Iterator[None]:
    """Make the accounts of all devices that are registered meanwhile at the end, over one connection.

    For many at once, in a background task: with 10,000 accounts Mosquitto takes 50 ms for each new one. Where the
    broker is away they are made by `manage.py sync_broker`, as ever; so they are where this process dies half-way.
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
    """Create the devices' accounts (UUID, password), over one connection however many.

    With `renew` those that exist get the password, which closes their sessions; without it they stay as they are.
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
    """Let the devices in, or keep them out for a while, which closes their sessions."""
    _allow([str(uuid) for uuid in uuids], allowed)


def disconnect(uuids: Iterable[UUID]) -> None:
    """Close the devices' sessions; the accounts stay, so that a device may come back with what is valid then."""
    names = [str(uuid) for uuid in uuids]
    if is_managed():
        mosquitto_control.disconnect(names)
    if settings.EMQX_API_URL and names:
        emqx_api.disconnect(names)


def grant_app(slug: str, name: str, password: str) -> None:
    """Create the account of one of the tenant's apps."""
    if is_managed():
        mosquitto_control.grant_app(slug, name, password)


def revoke_apps(names: Iterable[str]) -> None:
    """Remove the apps' accounts and close their sessions."""
    _revoke(list(names))


def allow_apps(names: Iterable[str], allowed: bool) -> None:
    """Let the apps in, or keep them out for a while, which closes their sessions."""
    _allow(list(names), allowed)


def accounts() -> dict[str, bool]:
    """The names of all accounts that Mosquitto keeps, with whether they are let in."""
    return mosquitto_control.accounts() if is_managed() else {}


def sessions() -> set[str]:
    """The client ids that are connected, where the broker is EMQX."""
    return emqx_api.connected() if settings.EMQX_API_URL else set()


def shut_out(names: Iterable[str]) -> None:
    """Close the sessions of those that the platform does not let in, where the broker is EMQX."""
    names = list(names)
    if settings.EMQX_API_URL and names:
        emqx_api.shut_out(names, "not let in")


def _revoke(names: list[str]) -> None:
    if is_managed():
        mosquitto_control.remove(names)
    if settings.EMQX_API_URL and names:
        emqx_api.shut_out(names, "revoked")


def _allow(names: list[str], allowed: bool) -> None:
    if is_managed():
        mosquitto_control.allow(names, allowed)
    if settings.EMQX_API_URL and names and allowed:
        emqx_api.let_in(names)
    elif settings.EMQX_API_URL and names:
        emqx_api.shut_out(names, "kept out for a while")
