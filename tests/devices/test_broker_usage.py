"""The broker's own counters, at `/metrics` and on the console."""

import time
from typing import Any

import pytest

from devices.services.broker.usage import COUNTERS, GAUGES, BrokerUsage
from tests.mqtt import RawClient
from tests.processes import free_port, wait_until


def test_the_counters_are_those_of_the_broker(register: Any) -> None:
    device = register()
    usage = BrokerUsage()
    values = usage.values()
    assert "uptime" in values
    assert usage.values() is values, "they are read every few seconds only"
    before = values.get("retained messages/count", 0.0)
    topics = [f"telemetry/alpha/{device.uuid}/c{number}" for number in range(150)]
    with RawClient(device.uuid, device.mqtt_password) as client:
        for topic in topics:
            client.publish_acknowledged(topic, b"x" * 1000, retain=True)

        def is_counted() -> bool:
            return BrokerUsage().values().get("retained messages/count", 0.0) >= before + 80

        # Mosquitto updates its counters every ten seconds. Its own, up to fifty, expire after a minute.
        wait_until(is_counted, 60)
        for topic in topics:
            client.publish_acknowledged(topic, b"", retain=True)
    names = {metric.name for metric in BrokerUsage().collect()}
    assert {"gwanje_broker_up", "gwanje_broker_retained_messages"} <= names


def test_a_broker_that_does_not_answer_is_reported_and_not_waited_for(settings: Any) -> None:
    settings.MQTT_URL, settings.MQTT_ADMIN_URL = (f"mqtt://a:b@127.0.0.1:{free_port()}",) * 2
    usage, began = BrokerUsage(), time.monotonic()
    (up,) = usage.collect()
    assert (up.name, up.samples[0].value) == ("gwanje_broker_up", 0.0)
    assert time.monotonic() - began < 20
    settings.MQTT_ADMIN_URL = ""
    assert list(BrokerUsage().collect()) == [], "a broker that is not managed has metrics of its own"


@pytest.mark.django_db
def test_the_console_shows_them(tenant_a: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from devices.admin import console
    from tests.factories import make_user
    from tests.pages.client import Pages

    usage = BrokerUsage()
    usage._values = dict.fromkeys([*GAUGES, *COUNTERS], 7.0)
    usage._read_at = time.monotonic()
    monkeypatch.setattr(console, "BROKER_USAGE", usage)
    page = Pages("/admin/", make_user("reader-of-usage", is_superuser=True, is_staff=True)).get("")
    text = page.content.decode()
    assert 'id="broker"' in text
    assert "Absent sessions" in text.partition('id="broker"')[2][:600]
