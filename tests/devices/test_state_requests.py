"""Requests of apps for states: tenants are served in turn, each at its rate, and no tenant fills the memory."""

from uuid import UUID, uuid4

import pytest
from django.conf import LazySettings

from devices.services.notifications import state_publisher
from devices.services.notifications.state_publisher import StateBroker


@pytest.fixture
def broker(settings: LazySettings) -> StateBroker:
    settings.MQTT_URL = "mqtt://127.0.0.1:1"  # it is never connected
    settings.STATE_REQUESTS_PER_SECOND = 0.001
    return StateBroker()


def request(broker: StateBroker, slug: str, count: int = 1) -> list[tuple[str, UUID]]:
    requests = [(slug, uuid4()) for _ in range(count)]
    broker.restore_requests(requests)
    return requests


def test_one_request_is_not_behind_those_of_another_tenant(broker: StateBroker) -> None:
    many, one = request(broker, "alpha", 500), request(broker, "beta")
    assert broker.take_requests(4) == [many[0], one[0], many[1], many[2]]
    assert broker.take_requests(2) == many[3:5]


def test_the_rate_of_one_tenant_is_its_own(broker: StateBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_publisher, "MOST_REQUESTS", 5)
    first = request(broker, "alpha", 5)
    assert broker.take_requests(100) == first
    late, other = request(broker, "alpha", 5), request(broker, "beta", 2)
    assert broker.take_requests(100) == other
    assert broker.has_requests  # they wait, and are not lost
    broker._allowed["alpha"].give_back()
    assert broker.take_requests(100) == late[:1]


def test_without_a_rate_all_are_taken(broker: StateBroker, settings: LazySettings) -> None:
    settings.STATE_REQUESTS_PER_SECOND = 0
    for _ in range(3):
        requests = request(broker, "alpha", 1000)
        assert broker.take_requests(5000) == requests
    assert not broker._allowed


def test_what_waits_of_one_tenant_is_bounded(broker: StateBroker) -> None:
    request(broker, "alpha", state_publisher.MOST_REQUESTS + 7)
    request(broker, "beta")
    assert broker.take_dropped() == 7
    assert broker.take_dropped() == 0
    assert len(broker.take_requests(5000)) == state_publisher.MOST_REQUESTS + 1


def test_a_request_is_queued_once(broker: StateBroker) -> None:
    (slug, uuid), *_ = request(broker, "alpha")
    broker.restore_requests([(slug, uuid)] * 10)
    assert broker.take_requests(100) == [(slug, uuid)]
    assert not broker.has_requests
