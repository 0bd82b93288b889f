"""The next version of a device's secret in Vault. What a killed process left half-way there is taken up."""

import secrets as random
from uuid import UUID

from devices.services.vault.secret_store import DeviceSecret, SecretConflict, SecretsUnavailable, provisioner

_ATTEMPTS = 5


def new_secret() -> str:
    """256 random bits as text."""
    return random.token_urlsafe(32)


def next_key(schema: str, uuid: UUID, known: int) -> DeviceSecret:
    """A key newer than `known`, the newest that PostgreSQL has a row of; it is in Vault when this returns.

    A version that has no row was written by somebody who ended before the row was there. Nobody was given it, so it
    is the next key. Raises SecretMissing, SecretsUnavailable.
    """
    store = provisioner()
    for _ in range(_ATTEMPTS):
        newest = store.read(schema, uuid)
        if newest.version > known:
            return newest
        secret = new_secret()
        try:
            version = store.write(schema, uuid, secret=secret, mqtt_password=newest.mqtt_password, cas=newest.version)
        except SecretConflict:
            continue
        return DeviceSecret(secret, newest.mqtt_password, version)
    raise SecretsUnavailable("Others keep writing this device's secret")
