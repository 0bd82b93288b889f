"""Credential bootstrap: devices fetch their credentials once, with the token on their card.

"Once" means one attempt: a device generates the id of its attempt and stores it before the request. For a while the
same attempt receives the same response again, in case it was lost, until the key is in use. Any other attempt is
rejected, and recorded for the tenant.
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
# An inactive device retries less often than one that waits to be claimed.
_INACTIVE_FACTOR = 20
_AUDIT_EVERY = timedelta(minutes=10)


class UnknownBootstrapToken(Exception):
    """The token was never issued, or was replaced."""

    def __str__(self) -> str:
        return _("The token is unknown: it was replaced by a newer one or mistyped.")


class BootstrapPending(Exception):
    """No credentials to fetch yet. `status` is not_claimed, suspended or inactive; retry in `seconds`."""

    def __init__(self, status: str, seconds: int) -> None:
        super().__init__(status)
        self.status = status
        self.seconds = seconds


class AlreadyBootstrapped(Exception):
    """The credentials were fetched by another attempt. The tenant can reset them."""

    def __str__(self) -> str:
        return _("The credentials have already been fetched. The owner can reset them on the device's page.")


def fetch_credentials(token: str, attempt: str, address: str) -> dict[str, Any]:
    """Return the credentials of the device with that token, in the format of its configuration file.

    Raises UnknownBootstrapToken, BootstrapPending, AlreadyBootstrapped; SecretsUnavailable or BrokerUnavailable if
    Vault or the broker is unavailable. The credentials do not count as fetched then.
    """
    preregistered = (
        PreregisteredDevice.objects.select_related("tenant").filter(fetch_digest=claim_codes.digest(token)).first()
    )
    if preregistered is None:
        raise UnknownBootstrapToken
    if preregistered.tenant is None:
        raise BootstrapPending("not_claimed", settings.FETCH_RETRY_SECONDS)
    if preregistered.tenant.state != Tenant.State.ACTIVE:
        raise BootstrapPending("suspended", _INACTIVE_FACTOR * settings.FETCH_RETRY_SECONDS)
    with schema_context(preregistered.tenant.schema_name):
        return _fetch_in_tenant(preregistered, preregistered.tenant, attempt, address)


def _fetch_in_tenant(preregistered: PreregisteredDevice, tenant: Tenant, attempt: str, address: str) -> dict[str, Any]:
    device = Device.objects.select_related("hardware_model").filter(uuid__in=[preregistered.device_uuid]).first()
    if device is None:  # released in the meantime
        raise BootstrapPending("not_claimed", settings.FETCH_RETRY_SECONDS)
    if not device.active:
        raise BootstrapPending("inactive", _INACTIVE_FACTOR * settings.FETCH_RETRY_SECONDS)
    key = device.credentials.filter(revoked_at=None, not_after=None).order_by("-version").first()
    if key is None:
        raise BootstrapPending("inactive", _INACTIVE_FACTOR * settings.FETCH_RETRY_SECONDS)
    if preregistered.fetched_at is None or _may_repeat(preregistered, key, attempt):
        # Vault and the broker are used before the credentials count as fetched.
        issued = _read(tenant.schema_name, device, key)
        accounts.grant_devices([(device.uuid, issued.mqtt_password)])
        if _mark_fetched(preregistered, device, attempt, address) or _may_repeat(preregistered, key, attempt):
            return dict(device_config(tenant.slug, device, issued))
    _record_repetition(preregistered, device, address)
    raise AlreadyBootstrapped


def _read(schema: str, device: Device, key: DeviceCredential) -> IssuedCredentials:
    try:
        secret = provisioner().read(schema, device.uuid, key.version)
    except SecretMissing as error:
        raise SecretsUnavailable(f"Vault lacks key {key.version} of {device.uuid}: issue a new key") from error
    return IssuedCredentials(device.uuid, secret.secret, secret.version, secret.mqtt_password)


def _mark_fetched(preregistered: PreregisteredDevice, device: Device, attempt: str, address: str) -> bool:
    """Record this attempt as the one that fetched. Return False if another attempt was first."""
    with transaction.atomic():
        mine = PreregisteredDevice.objects.filter(pk=preregistered.pk, device_uuid=device.uuid, fetched_at=None)
        won = mine.filter(fetch_digest=preregistered.fetch_digest).update(
            fetched_at=timezone.now(), attempt_digest=claim_codes.digest(attempt)
        )
        if won:
            audit.record(DEVICE, "fetch credentials", device, f"from {address}")
    return bool(won)


def _may_repeat(preregistered: PreregisteredDevice, key: DeviceCredential, attempt: str) -> bool:
    """Return whether it is the same attempt, whose response may have been lost."""
    preregistered.refresh_from_db(fields=["fetched_at", "attempt_digest", "device_uuid"])
    if preregistered.fetched_at is None or key.in_use_since is not None:
        return False
    recent = timezone.now() - preregistered.fetched_at < timedelta(seconds=settings.FETCH_REPEAT_SECONDS)
    return recent and claim_codes.matches(preregistered.attempt_digest, attempt)


def _record_repetition(preregistered: PreregisteredDevice, device: Device, address: str) -> None:
    """Record the request, with at most one audit entry in ten minutes: a device in a loop must fill no table."""
    now = timezone.now()
    rows = PreregisteredDevice.objects.filter(pk=preregistered.pk)
    with transaction.atomic():
        due = Q(repeated_request_at=None) | Q(repeated_request_at__lt=now - _AUDIT_EVERY) | Q(repeated_requests=0)
        is_due = rows.filter(due).update(repeated_request_at=now, repeated_request_from=address[:45])
        rows.update(repeated_requests=F("repeated_requests") + 1)
        if is_due:
            audit.record(DEVICE, "credentials asked for again", device, f"from {address}")
            logger.warning("Credentials of device %s were requested again, from %s", device.uuid, address)
