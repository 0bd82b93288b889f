"""Rounds by tenant: what a batch takes from whom. Pure."""

from collections import Counter
from datetime import UTC, datetime

import pytest

from telemetry.services.ingest.tenant_queues import MESSAGE_COST, TenantQueues, cost_of
from telemetry.services.limits.refusals import UNKNOWN
from telemetry.services.pipeline.results import Incoming

NOW = datetime.now(UTC)


def message(topic: str, size: int = 100) -> Incoming:
    return Incoming(topic, bytes(size), NOW)


def filled(**tenants: int) -> TenantQueues:
    """Queues with so many messages of each tenant, the first tenant's first."""
    queues = TenantQueues()
    for tenant, count in tenants.items():
        for number in range(count):
            queues.add(tenant, number % 3, message(f"{tenant}/{number}"))
    return queues


def tenants_of(batch: list[Incoming]) -> Counter[str]:
    return Counter(one.topic.partition("/")[0] for one in batch)


def test_one_tenant_fills_the_batch() -> None:
    queues = filled(a=300)
    assert len(queues.take(250)) == 250
    assert queues.count == 50
    assert len(queues.take(250)) == 50
    assert (queues.count, queues.cost) == (0, 0)
    assert queues.take(250) == []


def test_a_flood_leaves_a_place_for_each_other_tenant() -> None:
    queues = filled(flood=5000, b=1, c=2, d=1)
    taken = tenants_of(queues.take(250))
    assert (taken["b"], taken["c"], taken["d"]) == (1, 2, 1)
    assert sum(taken.values()) == 250


def test_a_flood_leaves_a_place_for_each_other_device_of_its_tenant() -> None:
    queues = TenantQueues()
    for number in range(1000):
        queues.add("a", 1, message(f"flood/{number}"))
    queues.add("a", 2, message("calm/0"))
    assert tenants_of(queues.take(10)) == {"flood": 9, "calm": 1}


def test_two_floods_share_the_batch() -> None:
    queues = filled(a=5000, b=5000)
    taken = tenants_of(queues.take(250))
    assert abs(taken["a"] - taken["b"]) <= 4


def test_the_turn_goes_on_in_the_next_batch() -> None:
    queues = filled(a=100, b=100, c=100)
    total: Counter[str] = Counter()
    for _ in range(20):
        total += tenants_of(queues.take(5))
    assert max(total.values()) - min(total.values()) <= 4


def test_a_tenant_with_large_messages_gets_fewer_of_them() -> None:
    queues = TenantQueues()
    for number in range(500):
        queues.add("large", 1, message(f"large/{number}", 9 * MESSAGE_COST))
        queues.add("small", 1, message(f"small/{number}", 0))
    taken = tenants_of(queues.take(220))
    assert 8 < taken["small"] / taken["large"] < 12


def test_unregistered_publishers_have_a_smaller_part() -> None:
    queues = TenantQueues()
    for number in range(500):
        queues.add(UNKNOWN, 0, message(f"unknown/{number}"))
        queues.add("a", 1, message(f"a/{number}"))
    taken = tenants_of(queues.take(250))
    assert taken["a"] > 3 * taken["unknown"] > 0


def test_a_batch_has_a_bound_in_cost_and_at_least_one_message() -> None:
    queues = filled(a=10)
    for number in range(100):
        queues.add("large", 1, message(f"large/{number}", 60_000))
    batch = queues.take(250, 200_000)
    assert sum(len(one.payload) for one in batch) <= 300_000
    assert tenants_of(batch)["a"] == 10
    assert len(queues.take(250, 1)) == 1


@pytest.mark.parametrize("size", [1, 7, 250])
def test_each_devices_messages_stay_in_their_order(size: int) -> None:
    queues = TenantQueues()
    for number in range(300):
        for tenant in ("a", "b", "c")[: 1 + number % 3]:
            queues.add(tenant, number % 2, message(f"{tenant}/{number}", number % 50 * 100))
    taken = []
    while queues.count:
        taken += queues.take(size)
    for tenant in "abc":
        numbers = [int(one.topic.partition("/")[2]) for one in taken if one.topic.startswith(tenant)]
        for device in (0, 1):
            own = [number for number in numbers if number % 2 == device]
            assert own == sorted(own)
    assert len(taken) == 300 + 200 + 100


def test_what_is_left_is_removed_in_order() -> None:
    queues = filled(a=8, b=2)
    queues.take(1)
    left = [one.topic for one in queues.remove_all()]
    assert sorted(left) == ["a/1", "a/2", "a/3", "a/4", "a/5", "a/6", "a/7", "b/0", "b/1"]
    assert [one for one in left if one in {"a/1", "a/4", "a/7"}] == ["a/1", "a/4", "a/7"], "of one device"
    assert (queues.count, queues.cost) == (0, 0)


def test_the_messages_of_one_device_can_be_removed() -> None:
    queues = TenantQueues()
    messages = [Incoming("topic", b"payload", datetime.now(UTC), number) for number in range(6)]
    for number, message in enumerate(messages):
        queues.add("t_a", number % 2, message)
    assert queues.remove("t_a", 0) == messages[::2]
    assert queues.remove("t_a", 0) == queues.remove("t_b", 0) == []
    assert (queues.count, queues.cost) == (3, cost_of(messages[1::2]))
    assert queues.remove("t_a", 1) == messages[1::2]
    assert (queues.count, queues.cost, queues.take(10)) == (0, 0, [])


def test_a_devices_single_message_can_be_removed() -> None:
    queues = TenantQueues()
    single = message("a/1")
    queues.add("t_a", 1, single)
    assert queues.remove("t_a", 1) == [single]
    assert (queues.count, queues.cost, queues.take(10)) == (0, 0, [])
