"""Next key versions of devices in Vault. A version that a dead process left there is used."""

import secrets as random
from uuid import UUID

from devices.services.vault.secret_store import DeviceSecret, SecretConflict, SecretsUnavailable, provisioner

_ATTEMPTS = 5


def new_secret() -> str:
    """Return 256 random bits as text."""
    return random.token_urlsafe(32)


def next_key(schema: str, uuid: UUID, known: int) -> DeviceSecret:
    """Return a key newer than `known`, the newest with a row in PostgreSQL; it is in Vault when this returns.

    A version without a row was written by a process that died before the row was saved. It was given to no device, so
    it is the next key. Raises SecretMissing, SecretsUnavailable.
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
    raise SecretsUnavailable("The device's secret is being written by other processes")
