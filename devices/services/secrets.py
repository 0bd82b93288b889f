"""The only door to Vault: one KV v2 path per device, reached by AppRole with the narrowest policy.

`tenants/{schema}/devices/{uuid}` holds `{"secret", "mqtt_password"}`; the KV version is the key id. A process
names its role (`listener` reads, `provisioner` also writes) and never falls back to a wider one.
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import hvac
import requests
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from hvac.exceptions import Forbidden, InvalidPath, VaultError

Result = TypeVar("Result")


class SecretsUnavailable(Exception):
    """Vault is down, sealed, slow, or refuses our role: nothing is known about the secret."""


class SecretMissing(Exception):
    """Vault answered: there is no such device or version."""


@dataclass(frozen=True, slots=True)
class DeviceSecret:
    """What Vault holds of a device. Never printed: repr shows the version only."""

    secret: str
    mqtt_password: str
    version: int

    def __repr__(self) -> str:
        return f"<DeviceSecret version {self.version}>"


class SecretStore:
    """Vault, as one role sees it. Not shared between threads."""

    def __init__(self, role: str) -> None:
        if not settings.VAULT_ADDR or not settings.VAULT_APPROLE_DIR:
            raise ImproperlyConfigured(
                "VAULT_ADDR and VAULT_APPROLE_DIR are not set: secrets are kept in Vault and nowhere else."
            )
        self._login_file = Path(settings.VAULT_APPROLE_DIR) / f"{role}.json"
        self._client = hvac.Client(url=settings.VAULT_ADDR, timeout=settings.VAULT_TIMEOUT)
        self._kv = self._client.secrets.kv.v2
        self._renew_at = 0.0

    def read(self, schema: str, uuid: UUID, version: int | None = None) -> DeviceSecret:
        """The device's secret of that version (the newest without one). Raises SecretMissing, SecretsUnavailable."""
        answer = self._ask(
            lambda: self._kv.read_secret_version(
                path=_path(schema, uuid),
                version=version,
                mount_point=settings.VAULT_MOUNT,
                raise_on_deleted_version=True,
            )
        )
        data = answer["data"]
        return DeviceSecret(data["data"]["secret"], data["data"]["mqtt_password"], data["metadata"]["version"])

    def write(self, schema: str, uuid: UUID, *, secret: str, mqtt_password: str) -> int:
        """Keep a new version of the device's secret; returns the version, which is its key id."""
        answer = self._ask(
            lambda: self._kv.create_or_update_secret(
                path=_path(schema, uuid),
                secret={"secret": secret, "mqtt_password": mqtt_password},
                mount_point=settings.VAULT_MOUNT,
            )
        )
        return int(answer["data"]["version"])

    def delete(self, schema: str, uuid: UUID) -> None:
        """Remove every version of the device's secret; nothing happens where there is none."""
        try:
            self._ask(
                lambda: self._kv.delete_metadata_and_all_versions(
                    path=_path(schema, uuid), mount_point=settings.VAULT_MOUNT
                )
            )
        except SecretMissing:
            return

    def _ask(self, call: Callable[[], Result]) -> Result:
        """The call's answer, logged in; a refused token is replaced once."""
        try:
            self._keep_logged_in()
            try:
                return call()
            except Forbidden:
                self._log_in()
                return call()
        except InvalidPath as error:
            raise SecretMissing("no such secret or version") from error
        except (VaultError, requests.RequestException) as error:
            # The text of these errors holds addresses and paths, never secrets.
            raise SecretsUnavailable(f"Vault: {type(error).__name__}: {str(error)[:200]}") from error

    def _keep_logged_in(self) -> None:
        if not self._client.token:
            self._log_in()
        elif time.monotonic() >= self._renew_at:
            self._renew()

    def _renew(self) -> None:
        try:
            lease = self._client.auth.token.renew_self()["auth"]["lease_duration"]
        except Forbidden:
            self._log_in()
            return
        # Close to the token's greatest age the lease comes back shorter than asked: begin a new one in time.
        self._log_in() if lease < self._lease / 2 else self._set_renewal(lease)

    def _log_in(self) -> None:
        try:
            login = json.loads(self._login_file.read_text())
        except (OSError, ValueError) as error:
            raise SecretsUnavailable(f"{self._login_file}: {error}") from error
        answer: dict[str, Any] = self._client.auth.approle.login(login["role_id"], login["secret_id"])
        self._lease = answer["auth"]["lease_duration"]
        self._set_renewal(self._lease)

    def _set_renewal(self, lease: float) -> None:
        self._renew_at = time.monotonic() + lease / 2


_threads = threading.local()


def provisioner() -> SecretStore:
    """This thread's store for registering and removing devices."""
    store: SecretStore | None = getattr(_threads, "provisioner", None)
    if store is None:
        store = _threads.provisioner = SecretStore("provisioner")
    return store


def forget_provisioner() -> None:
    """Begin anew with the next call: after the configuration changed."""
    _threads.provisioner = None


def _path(schema: str, uuid: UUID) -> str:
    return f"tenants/{schema}/devices/{uuid}"
