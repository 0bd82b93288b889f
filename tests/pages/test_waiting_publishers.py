"""The page of publishers that wait at a gateway."""

from typing import Any

from django.utils import timezone
from django_tenants.utils import schema_context

from devices.models import Device, WaitingPublisher
from tests.factories import make_device, make_user

from .client import ADMIN, Pages


def test_publishers_are_registered_with_one_click(db: None, tenant_a: Any) -> None:
    gateway = make_device(tenant_a, "the gateway")
    with schema_context(tenant_a.schema_name):
        contract = {
            "key": "ruuvi-1",
            "name": "Ruuvi",
            "metrics": [{"key": "temperature", "path": "value.temperature", "value_type": "number", "unit": "°C"}],
        }
        rows = [
            WaitingPublisher.objects.create(
                gateway=gateway, publisher=name, message_count=1, example={"value": {"temperature": 20}},
                contract=contract, last_seen_at=timezone.now(),
            )
            for name in ("ruuvi:attic", "ruuvi:<b>cellar</b>")
        ]  # fmt: skip
    operator = Pages(ADMIN, make_user("an operator", tenant_a, "operator"))
    page = operator.get("devices/waitingpublisher/").content.decode()
    assert "temperature °C" in page
    assert "&lt;b&gt;cellar" in page
    assert "<b>cellar" not in page
    chosen = {"action": "register_selected", "_selected_action": [row.pk for row in rows]}
    answer = operator.post("devices/waitingpublisher/", chosen, follow=True)
    assert "2 devices were registered." in answer.content.decode()
    one = operator.get(f"devices/device/?q={gateway.name}")
    assert one.status_code == 200
    with schema_context(tenant_a.schema_name):
        assert set(Device.objects.filter(gateway=gateway).values_list("external_id", flat=True)) == {
            "ruuvi:attic", "ruuvi:<b>cellar</b>",
        }  # fmt: skip
        assert not WaitingPublisher.objects.exists()
