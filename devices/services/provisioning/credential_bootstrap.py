"""Devices that fetch their credentials themselves, once, with the token on their card.

"Once" is to one asker: a device makes up what it calls its attempt, and keeps it before it asks. For a while the same
attempt hears the same answer again, in case it was lost on the way, and until the key is in use. Any other asker hears
that somebody was there before, and the tenant sees it.
"""

import logging
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext as _
from django_tenants.utils import schema_context

from devices.models import Device, DeviceCredential
from devices.services import audit
from devices.services.broker import accounts
from devices.services.provisioning.device_config import device_config
from devices.services.provisioning.registration import IssuedCredentials
from devices.services.vault.secret_store import SecretMissing, SecretsUnavailable, provisioner
from tenants.models import PreregisteredDevice, Tenant
from tenants.services import claim_codes

logger = logging.getLogger(__name__)

DEVICE = audit.Named(None, "device")
# While a device is kept out it need not ask as often as one that somebody is just claiming.
_KEPT_OUT_FACTOR = 20
_TOLD_EVERY = timedelta(minutes=10)


class UnknownToken(Exception):
    """Nobody was given such a token, or it was replaced."""

    def __str__(self) -> str:
        return _("The token is unknown: it was replaced by a newer one or mistyped.")


class NotYet(Exception):
    """There is nothing to fetch at present. `status` is not_claimed, suspended or inactive; try again in `seconds`."""

    def __init__(self, status: str, seconds: int) -> None:
        super().__init__(status)
        self.status = status
        self.seconds = seconds


class AlreadyFetched(Exception):
    """Somebody has fetched them. The tenant is told, and can allow it once more."""

    def __str__(self) -> str:
        return _("The credentials have already been fetched. The owner can reset them on the device's page.")


def fetch(token: str, attempt: str, address: str) -> dict[str, Any]:
    """The credentials of the device with that token, as its configuration file has them.

    Raises UnknownToken, NotYet, AlreadyFetched; SecretsUnavailable when Vault is away and BrokerUnavailable when the
    broker is, and nothing counts as fetched then.
    """
    board = PreregisteredDevice.objects.select_related("tenant").filter(fetch_digest=claim_codes.digest(token)).first()
    if board is None:
        raise UnknownToken
    if board.tenant is None:
        raise NotYet("not_claimed", settings.FETCH_RETRY_SECONDS)
    if board.tenant.state != Tenant.State.ACTIVE:
        raise NotYet("suspended", _KEPT_OUT_FACTOR * settings.FETCH_RETRY_SECONDS)
    with schema_context(board.tenant.schema_name):
        return _fetch_in_tenant(board, board.tenant, attempt, address)


def _fetch_in_tenant(board: PreregisteredDevice, tenant: Tenant, attempt: str, address: str) -> dict[str, Any]:
    device = Device.objects.select_related("hardware_model").filter(uuid__in=[board.device_uuid]).first()
    if device is None:  # released just now
        raise NotYet("not_claimed", settings.FETCH_RETRY_SECONDS)
    if not device.active:
        raise NotYet("inactive", _KEPT_OUT_FACTOR * settings.FETCH_RETRY_SECONDS)
    key = device.credentials.filter(revoked_at=None, not_after=None).order_by("-version").first()
    if key is None:
        raise NotYet("inactive", _KEPT_OUT_FACTOR * settings.FETCH_RETRY_SECONDS)
    if board.fetched_at is None or _may_repeat(board, key, attempt):
        # Whatever may be away is asked before they count as fetched.
        issued = _read(tenant.schema_name, device, key)
        accounts.grant_devices([(device.uuid, issued.mqtt_password)])
        if _take(board, device, attempt, address) or _may_repeat(board, key, attempt):
            return dict(device_config(tenant.slug, device, issued))
    _tell(board, device, address)
    raise AlreadyFetched


def _read(schema: str, device: Device, key: DeviceCredential) -> IssuedCredentials:
    try:
        secret = provisioner().read(schema, device.uuid, key.version)
    except SecretMissing as error:
        raise SecretsUnavailable(f"Vault lacks key {key.version} of {device.uuid}: issue it a new one") from error
    return IssuedCredentials(device.uuid, secret.secret, secret.version, secret.mqtt_password)


def _take(board: PreregisteredDevice, device: Device, attempt: str, address: str) -> bool:
    """Whether this attempt is the one that has them."""
    with transaction.atomic():
        mine = PreregisteredDevice.objects.filter(pk=board.pk, device_uuid=device.uuid, fetched_at=None)
        won = mine.filter(fetch_digest=board.fetch_digest).update(
            fetched_at=timezone.now(), attempt_digest=claim_codes.digest(attempt)
        )
        if won:
            audit.record(DEVICE, "fetch credentials", device, f"from {address}")
    return bool(won)


def _may_repeat(board: PreregisteredDevice, key: DeviceCredential, attempt: str) -> bool:
    """Whether it is the same asker, to whom the answer may have been lost."""
    board.refresh_from_db(fields=["fetched_at", "attempt_digest", "device_uuid"])
    if board.fetched_at is None or key.in_use_since is not None:
        return False
    recent = timezone.now() - board.fetched_at < timedelta(seconds=settings.FETCH_REPEAT_SECONDS)
    return recent and claim_codes.same(board.attempt_digest, attempt)


def _tell(board: PreregisteredDevice, device: Device, address: str) -> None:
    """Note it on the board, and now and then in the tenant's audit: a device in a loop fills nothing."""
    now = timezone.now()
    rows = PreregisteredDevice.objects.filter(pk=board.pk)
    with transaction.atomic():
        due = Q(repeated_request_at=None) | Q(repeated_request_at__lt=now - _TOLD_EVERY) | Q(repeated_requests=0)
        told = rows.filter(due).update(repeated_request_at=now, repeated_request_from=address[:45])
        rows.update(repeated_requests=F("repeated_requests") + 1)
        if told:
            audit.record(DEVICE, "credentials asked for again", device, f"from {address}")
            logger.warning("Credentials of device %s were asked for again, from %s", device.uuid, address)
