"""The application that EMQX's HTTP requests reach, with the measured way to authenticate. `broker_access` starts it."""

import os
from collections.abc import Sequence

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django.setup()

from uuid import UUID  # noqa: E402 (what follows needs the settings)

from django_tenants.utils import schema_context  # noqa: E402

from devices.api.emqx_auth import EmqxAuthApp  # noqa: E402
from devices.models import Device  # noqa: E402
from devices.services.broker.auth_batcher import AuthBatcher  # noqa: E402
from devices.services.broker.auth_throttle import AuthThrottle  # noqa: E402
from devices.services.broker.authentication import DENIED, AuthResult, AuthUnavailable, LoginAttempt, authenticate  # noqa: E402
from devices.services.vault.secret_store import provisioner  # noqa: E402
from tenants.models import DeviceRoute  # noqa: E402


def authenticate_by_vault(logins: Sequence[LoginAttempt]) -> list[AuthResult | AuthUnavailable]:
    """The way that was not taken: the password itself from Vault, for each login."""
    return [_by_vault(login) for login in logins]


def _by_vault(login: LoginAttempt) -> AuthResult:
    with schema_context("public"):
        schema = DeviceRoute.objects.values_list("tenant__schema_name", flat=True).get(device_uuid=login.name)
    with schema_context(schema):
        if not Device.objects.filter(uuid=login.name, active=True).exists():
            return DENIED
    return AuthResult(provisioner().read(schema, UUID(login.name)).mqtt_password == login.password)


_WAYS = {
    "batched": (authenticate, 200),
    "one_by_one": (authenticate, 1),
    "vault": (authenticate_by_vault, 1),
}
_authenticate, _batch = _WAYS[os.environ["BENCH_WAY"]]
application = EmqxAuthApp([os.environ["BENCH_KEY"]], AuthBatcher(_authenticate, batch=_batch), AuthThrottle(0))
