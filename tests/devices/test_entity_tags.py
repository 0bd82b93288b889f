"""Changes of one object at once, each with the same `If-Match`."""

from typing import Any

from django_tenants.utils import schema_context

from devices.models import Device
from tests.api.client import Api
from tests.factories import issue_key, make_device
from tests.processes import run_at_once


def test_of_many_changes_at_once_one_is_made(live_db: None, tenant_a: Any) -> None:
    device, key = make_device(tenant_a, "at once"), issue_key(tenant_a)
    seen = Api(tenant_a.slug, key=key).get(f"devices/{device.uuid}/")["ETag"]

    def change(name: str) -> int:
        api = Api(tenant_a.slug, key=key)
        address = f"{api.root}devices/{device.uuid}/"
        headers = {"If-Match": seen}
        return int(api._client.patch(address, {"name": name}, "application/json", headers=headers).status_code)

    try:
        answers = run_at_once([lambda name=f"name {n}": change(name) for n in range(4)])  # type: ignore[misc]
        assert sorted(answers) == [200, 412, 412, 412]
    finally:
        with schema_context(tenant_a.schema_name):
            Device.objects.filter(pk=device.pk).delete()
