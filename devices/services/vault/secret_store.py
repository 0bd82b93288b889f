"""The only door to Vault: one KV v2 path per device, reached by AppRole with the narrowest policy.

`tenants/{schema}/devices/{uuid}` holds `{"secret", "mqtt_password"}`; the KV version is the key id. A process
names its role (`listener` reads, `web` also writes, `provisioner` also removes) and never falls back to a wider one.
"""

import threading
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings

from devices.services.vault.client import Connection, SecretConflict, SecretMissing, SecretsUnavailable

__all__ = ["DeviceSecret", "SecretConflict", "SecretMissing", "SecretStore", "SecretsUnavailable", "provisioner"]


@dataclass(frozen=True, slots=True)
class DeviceSecret:
    """What Vault holds of a device. Never printed: repr shows the version only."""

    secret: str
    mqtt_password: str
    version: int

    def __repr__(self) -> str:
        return f"<DeviceSecret version {self.version}>"


class SecretStore:
    """Devices' secrets, as one role sees them. `read` may be used by any thread, everything else by one."""

    def __init__(self, role: str) -> None:
        self._vault = Connection(role)

    @property
    def _kv(self) -> Any:
        return self._vault.client.secrets.kv.v2

    def read(self, schema: str, uuid: UUID, version: int | None = None) -> DeviceSecret:
        """The device's secret of that version (the newest without one). Raises SecretMissing, SecretsUnavailable."""
        wanted = "" if version is None else f"?version={version}"
        answer = self._vault.get(f"{settings.VAULT_MOUNT}/data/{_path(schema, uuid)}{wanted}")
        data = answer["data"]
        try:
            return DeviceSecret(data["secret"], data["mqtt_password"], answer["metadata"]["version"])
        except (KeyError, TypeError):
            raise SecretMissing("what is kept there is not a device's secret") from None

    def newest_version(self, schema: str, uuid: UUID) -> int:
        """The newest version's number, destroyed ones too; 0 where there is none. Raises SecretsUnavailable."""
        try:
            return int(self._vault.get(f"{settings.VAULT_MOUNT}/metadata/{_path(schema, uuid)}")["current_version"])
        except SecretMissing:
            return 0

    def write(self, schema: str, uuid: UUID, *, secret: str, mqtt_password: str, cas: int | None = None) -> int:
        """Keep a new version of the device's secret; returns the version, which is its key id.

        With `cas`, only where that is the newest version still: raises SecretConflict otherwise.
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
        """A single-use token for that version of the secret, good for so long. The secret does not pass through here.

        Raises SecretMissing, SecretsUnavailable.
        """
        self.read(schema, uuid, version)  # Vault would also wrap its answer that there is none
        path = f"{settings.VAULT_MOUNT}/data/{_path(schema, uuid)}?version={version}"
        answer = self._vault.ask(lambda: self._vault.client.read(path, wrap_ttl=f"{seconds}s"))
        return str(answer["wrap_info"]["token"])

    def destroy(self, schema: str, uuid: UUID, versions: list[int]) -> None:
        """Destroy versions of the secret for good; nothing happens where there are none."""
        try:
            self._vault.ask(
                lambda: self._kv.destroy_secret_versions(
                    path=_path(schema, uuid), versions=versions, mount_point=settings.VAULT_MOUNT
                )
            )
        except SecretMissing:
            return

    def delete(self, schema: str, uuid: UUID) -> None:
        """Remove every version of the device's secret; nothing happens where there is none."""
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
    """This thread's store for registering and removing devices, in this process' role (`VAULT_ROLE`)."""
    store: SecretStore | None = getattr(_threads, "provisioner", None)
    if store is None:
        store = _threads.provisioner = SecretStore(settings.VAULT_ROLE)
    return store


def forget_provisioner() -> None:
    """Begin anew with the next call: after the configuration changed."""
    _threads.provisioner = None


def _path(schema: str, uuid: UUID) -> str:
    return f"tenants/{schema}/devices/{uuid}"
