"""Hints to devices that are over a limit, as commands: `back_off`, with the limit and when to try again."""

import logging
from collections.abc import Sequence
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from devices.domain.specs import DeviceSpec
from devices.services.broker import commands
from devices.services.specs.loader import load_specs
from devices.services.vault.secret_store import SecretStore
from telemetry.services.limits.backoff_notices import Hint
from telemetry.services.lookups.keyring import Keyring, KeyUnavailable

logger = logging.getLogger(__name__)


class BackoffCommands:
    """Makes the commands. Devices that sign with version 2 get them signed with the key that they used, or not at
    all while Vault is away."""

    def __init__(self) -> None:
        self._keyring: Keyring | None = None

    def messages(self, hints: Sequence[Hint]) -> list[tuple[str, bytes]]:
        """(topic, payload) for each device that is still there. May ask PostgreSQL and Vault."""
        specs = load_specs({UUID(hint.uuid) for hint in hints})
        signing = [specs[uuid] for hint in hints if hint.signature == 2 and (uuid := UUID(hint.uuid)) in specs]
        if signing and (keyring := self._open()) is not None:
            keyring.prefetch(signing)
        made = []
        for hint in hints:
            spec = specs.get(UUID(hint.uuid))
            # The hint names its tenant: a device that was given to another meanwhile is not told of it.
            if spec is None or not spec.active or spec.tenant.schema != hint.schema:
                continue
            payload = self._encode(spec, hint)
            if payload is not None:
                made.append((commands.COMMAND_TOPIC.format(slug=spec.tenant.slug, uuid=spec.uuid), payload))
        return made

    def close(self) -> None:
        """End what reads keys."""
        if self._keyring is not None:
            self._keyring.close()

    def _encode(self, spec: DeviceSpec, hint: Hint) -> bytes | None:
        command = commands.compose(
            "back_off", spec.uuid, limit=hint.limit, value=hint.value, retry_after=round(hint.retry_after, 1)
        )
        if hint.signature != 2:
            return commands.encode(command)
        # A key that was revoked meanwhile signs nothing.
        if self._keyring is None or hint.key_version not in {key.version for key in spec.keys}:
            return None
        try:
            key = self._keyring.get(spec.tenant.schema, spec.uuid, hint.key_version)
        except KeyUnavailable:
            return None
        return commands.sign(command, key, hint.key_version) if key else None

    def _open(self) -> Keyring | None:
        if self._keyring is None:
            try:
                store = SecretStore("listener")
            except ImproperlyConfigured as error:
                logger.warning("Hints to devices of version 2 cannot be signed: %s", error)
                return None
            self._keyring = Keyring(store, soft_ttl=settings.KEY_CACHE_SOFT_TTL, hard_ttl=settings.KEY_CACHE_HARD_TTL)
        return self._keyring
