"""Changes of devices' secrets in the role of the web servers, and changes that only a worker can make."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from django_q.models import OrmQ
from django_tenants.utils import schema_context

from devices.services.provisioning import registration
from devices.services.vault import secret_store
from devices.services.vault.secret_store import SecretMissing, SecretStore, SecretsUnavailable
from tenants.infrastructure import tasks
from tests.factories import Registered
from tests.processes import ROOT


@pytest.fixture
def as_web(live_db: None, settings: Any) -> Iterator[None]:
    settings.VAULT_ROLE = "web"
    secret_store.reset_provisioner()
    yield
    secret_store.reset_provisioner()


@pytest.fixture
def queued(live_db: None) -> Callable[[], list[Any]]:
    """The tasks that were queued since."""
    before = set(OrmQ.objects.values_list("pk", flat=True))
    return lambda: [row.task for row in OrmQ.objects.exclude(pk__in=before)]


def test_the_web_registers_rotates_and_hands_over(as_web: None, register: Any) -> None:
    device: Registered = register()
    schema, uuid = device.tenant.schema_name, device.device.uuid
    with schema_context(schema):
        issued = registration.rotate_key(device.device)
    assert issued.key_version == 2
    assert secret_store.provisioner().read(schema, uuid, 2).secret == issued.secret
    assert secret_store.provisioner().wrap(schema, uuid, 2, seconds=60)


def test_the_web_removes_no_secret_and_has_a_worker_do_it(
    as_web: None, register: Any, queued: Callable[[], list[Any]], settings: Any
) -> None:
    device: Registered = register()
    schema, uuid = device.tenant.schema_name, device.device.uuid
    with pytest.raises(SecretsUnavailable):
        secret_store.provisioner().delete(schema, uuid)
    with pytest.raises(SecretsUnavailable):
        secret_store.provisioner().destroy(schema, uuid, [1])
    with schema_context(schema):
        registration.remove_device(device.device)
    assert SecretStore("listener").read(schema, uuid).version == 1, "the web has not removed it"
    [task] = queued()
    settings.VAULT_ROLE = "provisioner"
    secret_store.reset_provisioner()
    assert tasks.run(*task["args"]) == "Removed"
    with pytest.raises(SecretMissing):
        SecretStore("listener").read(schema, uuid)
    assert tasks.run(*task["args"]) == "Removed", "twice is once"


def test_a_device_that_is_registered_again_keeps_its_secret(
    register: Any, queued: Callable[[], list[Any]], live_db: None
) -> None:
    device: Registered = register()
    schema, uuid = device.tenant.schema_name, device.device.uuid
    with schema_context(schema):
        registration.remove_device(device.device)
        _, issued = registration.register_device(name="again", uuid=UUID(str(uuid)))
    [task] = queued()
    assert tasks.run(*task["args"]) == "It is registered again"
    assert SecretStore("listener").read(schema, uuid).secret == issued.secret


@pytest.mark.parametrize(
    ("module", "role"), [("config.asgi", "web"), ("config.wsgi", "web"), ("config.settings", "provisioner")]
)
def test_web_servers_are_web_by_themselves(module: str, role: str) -> None:
    code = f"import {module}; from django.conf import settings; print(settings.VAULT_ROLE)"
    env = {name: value for name, value in os.environ.items() if name != "VAULT_ROLE"}
    env |= {"PYTHONPATH": f"{ROOT / 'platform'}:{ROOT}", "DJANGO_SETTINGS_MODULE": "config.settings"}
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == role
