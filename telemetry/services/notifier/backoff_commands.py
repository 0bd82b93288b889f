"""Back-off notices for devices that exceed a limit, as commands `back_off` with the limit and the time to wait."""

import logging
from collections.abc import Sequence
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from devices.domain.specs import DeviceSpec
from devices.services.broker import commands
from devices.services.specs.loader import load_specs
from devices.services.vault.secret_store import SecretStore
from telemetry.services.limits.backoff_notices import BackoffNotice
from telemetry.services.lookups.keyring import Keyring, KeyUnavailable

logger = logging.getLogger(__name__)


class BackoffCommands:
    """Builds the commands. Devices that sign with version 2 get them signed with the key that they used, or not at
    all while Vault is unavailable."""

    def __init__(self) -> None:
        self._keyring: Keyring | None = None

    def messages(self, notices: Sequence[BackoffNotice]) -> list[tuple[str, bytes]]:
        """Return (topic, payload) for each device that still exists. May query PostgreSQL and Vault."""
        specs = load_specs({UUID(notice.uuid) for notice in notices})
        signing = [specs[uuid] for notice in notices if notice.signature == 2 and (uuid := UUID(notice.uuid)) in specs]
        if signing and (keyring := self._open()) is not None:
            keyring.prefetch(signing)
        messages = []
        for notice in notices:
            spec = specs.get(UUID(notice.uuid))
            # The notice names its tenant: a device that another tenant has now does not receive it.
            if spec is None or not spec.active or spec.tenant.schema != notice.schema:
                continue
            payload = self._encode(spec, notice)
            if payload is not None:
                messages.append((commands.COMMAND_TOPIC.format(slug=spec.tenant.slug, uuid=spec.uuid), payload))
        return messages

    def close(self) -> None:
        """End the threads that read keys."""
        if self._keyring is not None:
            self._keyring.close()

    def _encode(self, spec: DeviceSpec, notice: BackoffNotice) -> bytes | None:
        command = commands.compose(
            "back_off", spec.uuid, limit=notice.limit, value=notice.value, retry_after=round(notice.retry_after, 1)
        )
        if notice.signature != 2:
            return commands.encode(command)
        # A key that was revoked meanwhile must not sign.
        if self._keyring is None or notice.key_version not in {key.version for key in spec.keys}:
            return None
        try:
            key = self._keyring.get(spec.tenant.schema, spec.uuid, notice.key_version)
        except KeyUnavailable:
            return None
        return commands.sign(command, key, notice.key_version) if key else None

    def _open(self) -> Keyring | None:
        if self._keyring is None:
            try:
                store = SecretStore("listener")
            except ImproperlyConfigured as error:
                logger.warning("Back-off notices to devices of version 2 cannot be signed: %s", error)
                return None
            self._keyring = Keyring(store, soft_ttl=settings.KEY_CACHE_SOFT_TTL, hard_ttl=settings.KEY_CACHE_HARD_TTL)
        return self._keyring
