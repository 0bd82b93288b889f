"""The gateway of a device over the API."""

from typing import Any
from uuid import uuid4

import pytest
from django_tenants.utils import schema_context

from devices.domain.selector import Selector
from tests.factories import issue_key, make_device

from .client import Api
from .test_devices import problems


@pytest.fixture
def gateway(tenant_a: Any) -> Any:
    return make_device(tenant_a, "the gateway")


def test_a_child_is_registered_found_and_released(api: Api, gateway: Any) -> None:
    child = api.post("devices/", {"name": "a child", "gateway": str(gateway.uuid)}).json()
    assert child["gateway"] == str(gateway.uuid)
    assert [row["uuid"] for row in api.get(f"devices/?gateway={gateway.uuid}").json()["results"]] == [child["uuid"]]
    released = api.patch(f"devices/{child['uuid']}/", {"gateway": None})
    assert (released.status_code, released.json()["gateway"]) == (200, None)
    again = api.patch(f"devices/{child['uuid']}/", {"gateway": str(gateway.uuid)})
    assert (again.status_code, again.json()["gateway"]) == (200, str(gateway.uuid))
    assert api.delete(f"devices/{gateway.uuid}/").status_code == 204
    assert api.get(f"devices/{child['uuid']}/").json()["gateway"] is None


def test_gateways_have_one_level(api: Api, gateway: Any, tenant_a: Any) -> None:
    child = api.post("devices/", {"name": "a child", "gateway": str(gateway.uuid)}).json()
    own = api.patch(f"devices/{gateway.uuid}/", {"gateway": str(gateway.uuid)})
    assert "its own gateway" in problems(own)["gateway"]
    below = api.post("devices/", {"name": "a grandchild", "gateway": child["uuid"]})
    assert (below.status_code, problems(below)["gateway"]) == (400, "a child has a gateway itself.")
    other = make_device(tenant_a, "another")
    above = api.patch(f"devices/{gateway.uuid}/", {"gateway": str(other.uuid)})
    assert "the gateway of other devices" in problems(above)["gateway"]


def test_a_gateway_that_a_client_cannot_see_is_unknown(api: Api, tenant_a: Any, tenant_b: Any, gateway: Any) -> None:
    mine = make_device(tenant_a, "mine")
    narrow = Api(tenant_a.slug, key=issue_key(tenant_a, selector=Selector(devices=(str(mine.uuid),))))
    for client, uuid in ((api, make_device(tenant_b).uuid), (api, uuid4()), (narrow, gateway.uuid)):
        refused = client.patch(f"devices/{mine.uuid}/", {"gateway": str(uuid)})
        assert (refused.status_code, f"no device with the UUID {uuid}" in problems(refused)["gateway"]) == (400, True)
        assert client.get(f"devices/?gateway={uuid}").status_code == 404
    with schema_context(tenant_a.schema_name):
        mine.refresh_from_db()
    assert mine.gateway is None
