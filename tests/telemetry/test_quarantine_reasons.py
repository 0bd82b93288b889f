"""Every reason for which a message is refused, from a device at the real broker to the listener's own process.

Each message is sent twice on one connection: it leaves one row in the quarantine, counted twice, and no reading, and
neither the device's connection nor the listener is any the worse for it.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import pytest
from django_tenants.utils import schema_context

from tests.factories import Registered
from tests.mqtt import RawClient
from tests.payloads import topic, v1, v2
from tests.processes import wait_until

GOOD = {"temp": 21.5, "humidity": 44}
Make = Callable[[Registered], tuple[str, bytes]]


def _update(device: Registered, **values: Any) -> None:
    """Change the row before any message of the device has come."""
    from devices.models import Device

    with schema_context(device.tenant.schema_name):
        Device.objects.filter(pk=device.device.pk).update(**values)


def _unroute(device: Registered) -> tuple[str, bytes]:
    from tenants.models import DeviceRoute

    DeviceRoute.objects.filter(device_uuid=device.device.uuid).delete()
    return topic(device), v1(device, GOOD)


def _deactivate(device: Registered) -> tuple[str, bytes]:
    _update(device, active=False)
    return topic(device), v1(device, GOOD)


def _downgrade(device: Registered) -> tuple[str, bytes]:
    _update(device, min_signature_version=2)
    return topic(device), v1(device, GOOD)


def _detach(device: Registered) -> tuple[str, bytes]:
    from devices.models import Component

    with schema_context(device.tenant.schema_name):
        Component.objects.filter(device=device.device).update(attached=False)
    return topic(device), v1(device, GOOD)


def _disallow(device: Registered) -> tuple[str, bytes]:
    from devices.models import ComponentType, HardwareModel

    with schema_context(device.tenant.schema_name):
        model = HardwareModel.objects.create(name=f"board {uuid4().hex[:8]}", version="1")
        model.allowed_component_types.set([ComponentType.objects.get(key="relay")])
    _update(device, hardware_model=model)
    return topic(device), v1(device, GOOD)


def _name_a_unit(device: Registered) -> tuple[str, bytes]:
    from devices.models import Component, ComponentType, Metric, Unit

    with schema_context(device.tenant.schema_name):
        refuse = ComponentType.InvalidValues.REFUSE_MESSAGE
        kind = ComponentType.objects.create(key=f"named-{uuid4().hex[:8]}", name="names it", invalid_values=refuse)
        unit = Unit.objects.get(symbol="°C")
        Metric.objects.create(component_type=kind, key="t", path="value.temp", unit=unit, unit_path="TempUnit")
        Component.objects.filter(device=device.device).update(component_type=kind)
    _update(device, hardware_model=None)
    return topic(device), v1(device, GOOD, TempUnit="hPa")


MESSAGES: dict[str, Make] = {
    "malformed": lambda d: (topic(d), b"{"),
    "too_large": lambda d: (topic(d), v1(d, GOOD, padding="x" * 64 * 1024)),
    "unknown_device": _unroute,
    "unknown_child": lambda d: (f"telemetry/{d.tenant.slug}/{d.uuid}/{uuid4()}/dht22", v1(d, GOOD)),
    "inactive_device": _deactivate,
    "wrong_tenant": lambda d: (topic(d, segment="beta-farm"), v1(d, GOOD)),
    "bad_signature": lambda d: (topic(d), v1(d, GOOD, secret="another")),
    "downgraded_signature": _downgrade,
    "future_timestamp": lambda d: (topic(d), v1(d, GOOD, ago=-3600)),
    "past_timestamp": lambda d: (topic(d), v1(d, GOOD, timestamp="1970-01-01T00:00:32Z")),
    "cpu_serial_mismatch": lambda d: (topic(d), v1(d, GOOD, cpu_serial="another")),
    "hardware_version_mismatch": lambda d: (topic(d), v1(d, GOOD, hardware_version="9.9")),
    "unknown_component": lambda d: (topic(d, "toaster"), v1(d, GOOD)),
    "component_not_attached": _detach,
    "component_not_allowed": _disallow,
    "wrong_type": lambda d: (topic(d), v1(d, {"temp": "warm"})),
    "out_of_range": lambda d: (topic(d), v1(d, {"temp": 81})),
    "unit_mismatch": _name_a_unit,
    "not_a_will": lambda d: (f"device/lwt/{d.uuid}", b'{"status": "ONLINE"}'),
    # Those below need something before them, or around them.
    "replayed": lambda d: (topic(d), v2(d, {"temp": 2}, seq=1)),
    "quota_exceeded": lambda d: (topic(d), v1(d, {"temp": 2})),
    "key_unavailable": lambda d: (topic(d), v1(d, GOOD)),
}
SET_UP = ("replayed", "quota_exceeded", "key_unavailable")


def kept(device: Registered) -> list[tuple[str, int]]:
    """(reason, times) of the device's messages in its tenant's quarantine, and among those of no tenant."""
    from telemetry.models import Quarantined
    from tenants.models import UnroutedMessage

    found: list[tuple[str, int]] = []
    with schema_context(device.tenant.schema_name):
        for model in (Quarantined, UnroutedMessage):
            rows = model.objects.filter(topic__contains=device.uuid)
            assert all(row.detail for row in rows)
            found += rows.values_list("reason", "count")
    return found


def readings(device: Registered) -> int:
    from telemetry.models import Reading

    with schema_context(device.tenant.schema_name):
        return Reading.objects.filter(series__device=device.device).count()


def _forget_what_was_counted() -> None:
    from django_redis import get_redis_connection

    from telemetry.services.limits.buckets import PREFIX

    redis = get_redis_connection("default")
    for key in redis.scan_iter(f"{PREFIX}*"):
        redis.delete(key)


class Connected:
    """A device on its own connection to the broker."""

    def __init__(self, device: Registered, stack: ExitStack) -> None:
        self.device = device
        self.client = stack.enter_context(RawClient(device.uuid, device.mqtt_password))

    def send(self, message: tuple[str, bytes]) -> None:
        self.client.publish_acknowledged(*message)

    def is_refused_for(self, reason: str, message: tuple[str, bytes]) -> None:
        before = readings(self.device)
        self.send(message)
        self.send(message)
        wait_until(lambda: kept(self.device) == [(reason, 2)], 180, lambda: f"{reason}: {kept(self.device)}")
        assert readings(self.device) == before, reason
        assert self.client.client.is_connected(), reason
        assert self.client.refusal is None

    def is_stored(self, message: tuple[str, bytes]) -> None:
        before = readings(self.device)
        self.send(message)
        wait_until(lambda: readings(self.device) > before, 180, lambda: f"not stored: {kept(self.device)}")


@pytest.fixture
def sealed(stack: Any) -> Iterator[Callable[[], None]]:
    """Seal the Vault; it is unsealed afterwards."""
    server = stack.server("openbao")
    yield lambda: server._client(server._root_token()).sys.seal()
    if not server.is_ready():
        stack.restart("openbao", 20)  # it unseals itself when it starts


def test_the_table_has_every_reason() -> None:
    from telemetry.models import Reason

    assert MESSAGES.keys() == set(Reason.values)


def test_every_reason_over_mqtt(register: Any, start: Any, tenant_b: Any, sealed: Callable[[], None]) -> None:
    from tenants.services.limits import set_limits

    devices = {reason: register() for reason in MESSAGES if reason != "quota_exceeded"}
    devices["quota_exceeded"] = register(tenant=tenant_b)
    healthy = register()
    messages = {reason: make(devices[reason]) for reason, make in MESSAGES.items()}
    listener = start("manage.py", "run_mqtt_listener", "--client-id", "reasons")
    listener.wait_for("Connected to the broker")
    with ExitStack() as stack:
        connected = {reason: Connected(device, stack) for reason, device in devices.items()}
        witness = Connected(healthy, stack)
        witness.is_stored((topic(healthy), v1(healthy, GOOD)))
        for reason, one in connected.items():
            if reason not in SET_UP:
                one.is_refused_for(reason, messages[reason])

        one = connected["replayed"]
        one.is_stored((topic(one.device), v2(one.device, GOOD, seq=1)))
        one.is_refused_for("replayed", messages["replayed"])

        one = connected["quota_exceeded"]
        _forget_what_was_counted()
        try:
            set_limits(tenant_b, daily_quota=1)
            one.is_stored((topic(one.device), v1(one.device, GOOD)))
            one.is_refused_for("quota_exceeded", messages["quota_exceeded"])
        finally:
            set_limits(tenant_b, daily_quota=None)

        sealed()
        connected["key_unavailable"].is_refused_for("key_unavailable", messages["key_unavailable"])

        witness.is_stored((topic(healthy), v1(healthy, {"temp": 3})))
    assert listener.popen.poll() is None
