"""Secrets of devices in Vault: one KV v2 path per device, reached by AppRole with the narrowest policy.

`tenants/{schema}/devices/{uuid}` has `{"secret", "mqtt_password"}`; the KV version is the key id. A process names its
role (`listener` reads, `web` also writes, `provisioner` also removes) and never uses a wider one.
"""

import threading
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings

from devices.services.vault.client import SecretConflict, SecretMissing, SecretsUnavailable, VaultConnection

__all__ = ["DeviceSecret", "SecretConflict", "SecretMissing", "SecretStore", "SecretsUnavailable", "provisioner"]


@dataclass(frozen=True, slots=True)
class DeviceSecret:
    """The secret of a device in Vault. Never printed: repr shows the version only."""

    secret: str
    mqtt_password: str
    version: int

    def __repr__(self) -> str:
        return f"<DeviceSecret version {self.version}>"


class SecretStore:
    """Devices' secrets for one role. `read` is thread-safe, the other methods are not."""

    def __init__(self, role: str) -> None:
        self._vault = VaultConnection(role)

    @property
    def _kv(self) -> Any:
        return self._vault.client.secrets.kv.v2

    def read(self, schema: str, uuid: UUID, version: int | None = None) -> DeviceSecret:
        """Return the device's secret of that version, or the newest. Raises SecretMissing, SecretsUnavailable."""
        wanted = "" if version is None else f"?version={version}"
        answer = self._vault.get(f"{settings.VAULT_MOUNT}/data/{_path(schema, uuid)}{wanted}")
        data = answer["data"]
        try:
            return DeviceSecret(data["secret"], data["mqtt_password"], answer["metadata"]["version"])
        except (KeyError, TypeError):
            raise SecretMissing("the path does not contain a device's secret") from None

    def newest_version(self, schema: str, uuid: UUID) -> int:
        """Return the newest version's number, destroyed ones included; 0 if there is none.

        Raises SecretsUnavailable.
        """
        try:
            return int(self._vault.get(f"{settings.VAULT_MOUNT}/metadata/{_path(schema, uuid)}")["current_version"])
        except SecretMissing:
            return 0

    def write(self, schema: str, uuid: UUID, *, secret: str, mqtt_password: str, cas: int | None = None) -> int:
        """Write a new version of the device's secret. Return the version, which is the key id.

        With `cas`, only if that is still the newest version: raises SecretConflict otherwise.
        """
        answer = self._vault.ask(
            lambda: self._kv.create_or_update_secret(
                path=_path(schema, uuid),
                secret={"secret": secret, "mqtt_password": mqtt_password},
                cas=cas,
                mount_point=settings.VAULT_MOUNT,
            )
        )
        return int(answer["data"]["version"])

    def wrap(self, schema: str, uuid: UUID, version: int, *, seconds: int) -> str:
        """Return a single-use token for that version of the secret, valid for `seconds`. The secret is not read here.

        Raises SecretMissing, SecretsUnavailable.
        """
        self.read(schema, uuid, version)  # Vault would also wrap the response that there is none
        path = f"{settings.VAULT_MOUNT}/data/{_path(schema, uuid)}?version={version}"
        answer = self._vault.ask(lambda: self._vault.client.read(path, wrap_ttl=f"{seconds}s"))
        return str(answer["wrap_info"]["token"])

    def destroy(self, schema: str, uuid: UUID, versions: list[int]) -> None:
        """Destroy versions of the secret permanently; missing ones are ignored."""
        try:
            self._vault.ask(
                lambda: self._kv.destroy_secret_versions(
                    path=_path(schema, uuid), versions=versions, mount_point=settings.VAULT_MOUNT
                )
            )
        except SecretMissing:
            return

    def delete(self, schema: str, uuid: UUID) -> None:
        """Remove every version of the device's secret, if any."""
        try:
            self._vault.ask(
                lambda: self._kv.delete_metadata_and_all_versions(
                    path=_path(schema, uuid), mount_point=settings.VAULT_MOUNT
                )
            )
        except SecretMissing:
            return


_threads = threading.local()


def provisioner() -> SecretStore:
    """Return this thread's store for registering and removing devices, in this process' role (`VAULT_ROLE`)."""
    store: SecretStore | None = getattr(_threads, "provisioner", None)
    if store is None:
        store = _threads.provisioner = SecretStore(settings.VAULT_ROLE)
    return store


def reset_provisioner() -> None:
    """Reset this thread's store, after the configuration changed."""
    _threads.provisioner = None


def _path(schema: str, uuid: UUID) -> str:
    return f"tenants/{schema}/devices/{uuid}"
