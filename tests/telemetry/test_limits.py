"""Limits as listeners keep them: the figures are small and the rates slow, so that no test waits for a refill."""

import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from django_redis import get_redis_connection

from devices.domain.specs import DeviceSpec, LimitSpec, RateSpec, TenantSpec
from telemetry.services.limits import backoff_notices
from telemetry.services.limits.bucket_store import LISTENERS, BucketStore
from telemetry.services.limits.buckets import PREFIX
from telemetry.services.limits.limiter import ExceededLimit, Limiter
from telemetry.services.pipeline.form import check_size
from telemetry.services.pipeline.results import AcceptedItem, Incoming, Refusal, Topic, TopicKind, ValidatedMessage

NOW = datetime.now(UTC)
# So slow that nothing is refilled while a test runs.
SLOW = 0.001


@pytest.fixture(autouse=True)
def empty_redis() -> Iterator[None]:
    _clear()
    yield
    _clear()


def _clear() -> None:
    redis = get_redis_connection("default")
    for pattern in (f"{PREFIX}*", "gwanje:backoff*"):
        for key in redis.scan_iter(pattern):
            redis.delete(key)


class Fleet:
    """Devices of one tenant, and their messages as validation returns them."""

    def __init__(self, limits: LimitSpec | None, schema: str = "t_one") -> None:
        slug = schema.removeprefix("t_")
        self.tenant = TenantSpec(schema, slug, frozenset([slug]), True, limits)

    def message(self, device: int = 1, *, late: bool = False, component: str = "dht22") -> AcceptedItem:
        uuid = UUID(int=device)
        kind = TopicKind.TELEMETRY if component else TopicKind.BIRTH
        spec = DeviceSpec(self.tenant, device, uuid.int, True, "", "", 1, {}, frozenset(), (), 60)
        topic = Topic(kind, uuid, self.tenant.slug, component)
        message = ValidatedMessage(topic, component, NOW, late, 1, 1, uuid4().bytes)
        return AcceptedItem(Incoming("t", b"{}", NOW), spec, message)

    def messages(self, count: int, device: int = 1, **kind: Any) -> list[AcceptedItem]:
        return [self.message(device, **kind) for _ in range(count)]


def slow(burst: float) -> RateSpec:
    return RateSpec(SLOW, burst)


def refused(hits: dict[int, ExceededLimit]) -> list[int]:
    return sorted(hits)


def two_listeners() -> tuple[Limiter, Limiter]:
    """Two that know of each other."""
    first, second = Limiter(), Limiter()
    for limiter in (first, second, first):
        limiter.admit(Fleet(LimitSpec(max_payload=1), "t_other").messages(1))
        limiter.flush()
    return first, second


def test_nothing_is_refused_where_nothing_is_limited() -> None:
    assert Limiter().admit(Fleet(None).messages(1000)) == {}


@pytest.mark.parametrize(
    ("limits", "name", "device_id"),
    [
        (LimitSpec(tenant=slow(10)), "tenant_rate", None),
        (LimitSpec(device=slow(10)), "device_rate", 1),
        (LimitSpec(daily_quota=10), "daily_quota", None),
    ],
)
def test_what_is_beyond_a_limit_is_refused_by_its_name(limits: LimitSpec, name: str, device_id: int | None) -> None:
    limiter, fleet = Limiter(), Fleet(limits)
    hits = limiter.admit(fleet.messages(15))
    assert refused(hits) == [10, 11, 12, 13, 14]
    assert {(hit.limit, hit.device_id) for hit in hits.values()} == {(name, device_id)}
    assert all(hit.retry_after >= 1 for hit in hits.values())
    assert refused(limiter.admit(fleet.messages(2))) == [0, 1]


def test_a_limit_of_a_batch_of_one_after_another_is_the_same() -> None:
    limiter, fleet = Limiter(), Fleet(LimitSpec(tenant=slow(10), device=slow(8), daily_quota=9))
    hits = [limiter.admit([fleet.message(device)]) for device in [1] * 9 + [2] * 3]
    assert [next((str(hit.limit) for hit in one.values()), "") for one in hits] == [
        *[""] * 8,
        "device_rate",
        "",
        "daily_quota",
        "tenant_rate",
    ]


def test_a_rate_refills() -> None:
    limiter, fleet = Limiter(), Fleet(LimitSpec(tenant=RateSpec(200, 1), device=RateSpec(200, 1)))
    assert not limiter.admit(fleet.messages(1))
    deadline = time.monotonic() + 60
    while limiter.admit(fleet.messages(1)):
        assert time.monotonic() < deadline, "the bucket stays empty"


def test_a_noisy_device_leaves_the_others_alone() -> None:
    limiter, fleet = Limiter(), Fleet(LimitSpec(device=slow(3)))
    batch = [fleet.message(device) for _ in range(6) for device in (1, 1, 2) if _ < 3 or device == 1]
    hits = limiter.admit(batch)
    assert {hit.device_id for hit in hits.values()} == {1}
    assert len(hits) == 9


def test_two_tenants_have_buckets_of_their_own() -> None:
    limits = LimitSpec(tenant=slow(2), device=slow(2), daily_quota=2)
    limiter, one, two = Limiter(), Fleet(limits, "t_one"), Fleet(limits, "t_two")
    assert refused(limiter.admit(one.messages(5))) == [2, 3, 4]
    assert not limiter.admit(two.messages(2))
    limiter.flush()
    keys = {key.decode() for key in get_redis_connection("default").keys(f"{PREFIX}:*")}
    assert keys
    assert all(key.split(":")[2] in ("t_one", "t_two") for key in keys)


def test_late_messages_have_a_lane_of_their_own_and_no_quota() -> None:
    fleet = Fleet(LimitSpec(tenant=slow(2), device=slow(2), tenant_backfill=slow(20), daily_quota=2))
    limiter = Limiter()
    assert not limiter.admit(fleet.messages(20, late=True))
    assert not limiter.admit(fleet.messages(2))
    late = limiter.admit(fleet.messages(1, late=True))
    assert [hit.limit for hit in late.values()] == ["tenant_backfill_rate"]
    each = LimitSpec(device_backfill=slow(1))
    assert [hit.limit for hit in limiter.admit(Fleet(each, "t_two").messages(2, late=True)).values()] == [
        "device_backfill_rate"
    ]


def test_telemetry_keeps_no_births_out_and_a_flood_of_births_is_held() -> None:
    limiter, fleet = Limiter(), Fleet(LimitSpec(tenant=slow(1), device=slow(3), daily_quota=1))
    assert refused(limiter.admit(fleet.messages(4))) == [1, 2, 3]
    births = limiter.admit(fleet.messages(4, component=""))
    assert refused(births) == [3]
    assert births[3].limit == "device_rate"


def test_the_tenants_bucket_is_shared_by_all_listeners() -> None:
    first, second = two_listeners()
    fleet = Fleet(LimitSpec(tenant=slow(100), daily_quota=90))
    taken = 0
    # Twice as often as the quota needs: at the end no listener holds leased tokens, whatever it leased.
    for _ in range(120):
        for limiter in (first, second):
            taken += not limiter.admit(fleet.messages(1))
            limiter.flush()
    assert taken == 90


def test_a_device_that_sends_through_two_listeners_has_one_limit() -> None:
    first, second = two_listeners()
    fleet = Fleet(LimitSpec(device=slow(40)))
    taken = sum(not limiter.admit(fleet.messages(1)) for _ in range(50) for limiter in (first, second))
    # What each counted by itself before it asked is charged when it asks.
    assert taken == 40


def test_a_slow_device_needs_no_bucket_in_redis() -> None:
    first, _second = two_listeners()
    fleet = Fleet(LimitSpec(device=slow(40)))
    assert not first.admit([fleet.message(device) for device in range(1, 300) for _ in range(5)])
    assert not get_redis_connection("default").keys(f"{PREFIX}:t_one:*")


def test_a_restarted_listener_goes_on_where_the_buckets_are() -> None:
    fleet = Fleet(LimitSpec(tenant=slow(10), daily_quota=20))
    before = Limiter()
    assert refused(before.admit(fleet.messages(12))) == [10, 11]
    assert refused(Limiter().admit(fleet.messages(3))) == [0, 1, 2]


def test_what_was_not_stored_is_given_back() -> None:
    limiter = Limiter()
    fleet = Fleet(LimitSpec(tenant=slow(5), device=slow(5), daily_quota=5))
    batch = fleet.messages(7)
    for _ in range(3):
        hits = limiter.admit(batch)
        assert refused(hits) == [5, 6]
        limiter.release([item for position, item in enumerate(batch) if position not in hits])
    limiter.admit(batch)
    assert refused(limiter.admit(fleet.messages(1))) == [0]


def test_a_replay_is_held_to_the_quota_alone() -> None:
    limiter, fleet = Limiter(), Fleet(LimitSpec(tenant=slow(1), device=slow(1), daily_quota=3))
    hits = limiter.admit(fleet.messages(5), replayed=True)
    assert {position: hit.kind for position, hit in hits.items()} == {3: "quota", 4: "quota"}
    limiter.release(fleet.messages(3), replayed=True)
    assert refused(limiter.admit(fleet.messages(2))) == [1], "its rates were not touched"


def test_a_used_up_quota_says_what_it_is_and_when_it_begins_anew() -> None:
    hits = Limiter().admit(Fleet(LimitSpec(daily_quota=2)).messages(3))
    refusal = hits[2].refusal()
    assert (refusal.reason, refusal.limit) == ("quota_exceeded", "daily_quota")
    assert "daily_quota of 2 " in refusal.detail
    assert " 00:00 UTC" in refusal.detail
    assert 0 < hits[2].retry_after <= 86400


def test_changed_limits_hold_from_the_next_message_on() -> None:
    limiter = Limiter()
    assert refused(limiter.admit(Fleet(LimitSpec(tenant=slow(2))).messages(3))) == [2]
    assert not limiter.admit(Fleet(LimitSpec(device=slow(50))).messages(50))
    assert len(limiter.admit(Fleet(LimitSpec(tenant=slow(2))).messages(3))) == 3, "an empty bucket stays empty"


def test_idle_leases_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter, fleet = Limiter(), Fleet(LimitSpec(tenant=slow(1000), daily_quota=1000))
    limiter.admit(fleet.messages(100))
    limiter.flush()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)
    limiter.flush()
    used = [int(get_redis_connection("default").get(key)) for key in _quota_keys()]
    assert used == [100]
    assert not Limiter().admit(fleet.messages(900))


def _quota_keys() -> list[bytes]:
    found = get_redis_connection("default").keys(f"{PREFIX}:*:daily_quota:*")
    return [key for key in found if not key.endswith(b":unused")]


def _used_quota() -> int:
    [key] = _quota_keys()
    return BucketStore().used_quota(key.decode())


def test_what_is_used_of_a_quota_is_without_the_tokens_that_are_leased_ahead() -> None:
    limiters = two_listeners()
    fleet, sent = Fleet(LimitSpec(daily_quota=10_000)), 0
    for count in (1, 7, 120, 33, 1):
        for limiter in limiters:
            limiter.admit(fleet.messages(count))
            limiter.flush()
            sent += count
            assert _used_quota() == sent


def test_what_a_stopped_listener_had_leased_is_used() -> None:
    limiter, redis = Limiter(), get_redis_connection("default")
    limiter.admit(Fleet(LimitSpec(daily_quota=10_000)).messages(100))
    limiter.flush()
    [key] = _quota_keys()
    unused = key + b":unused"
    [(name, recorded)] = redis.hgetall(unused).items()
    left, at = recorded.split()
    assert int(left) > 0
    redis.hset(unused, name, b"%s %.6f" % (left, float(at) - 60))
    assert _used_quota() == 100 + int(left) == int(redis.get(key))


def test_without_redis_each_listener_keeps_the_limits_for_itself(settings: Any, caplog: Any) -> None:
    there = settings.CACHES
    settings.CACHES = {"default": there["default"] | {"LOCATION": "redis://127.0.0.1:1/0"}}
    limiter, fleet = Limiter(), Fleet(LimitSpec(tenant=slow(10), device=slow(9), daily_quota=5))
    with caplog.at_level(logging.WARNING):
        assert [hit.limit for hit in limiter.admit(fleet.messages(11)).values()] == ["device_rate"] * 2
        assert [hit.limit for hit in limiter.admit(fleet.messages(3, 2)).values()] == ["tenant_rate"] * 2
        limiter.flush()
    assert sum("Redis is unavailable" in record.message for record in caplog.records) == 1
    settings.CACHES = there  # before the fixture that empties it


def test_listeners_that_are_gone_are_counted_no_more() -> None:
    redis = get_redis_connection("default")
    redis.zadd(LISTENERS, {"gone": time.time() - 60})
    limiter = Limiter()
    limiter.admit(Fleet(LimitSpec(daily_quota=1)).messages(1))
    limiter.flush()
    assert redis.zcard(LISTENERS) == 1


def test_a_device_is_told_once_in_a_while() -> None:
    limiter = Limiter()
    fleet = Fleet(LimitSpec(device=slow(1)))
    for _ in range(3):
        limiter.admit([*fleet.messages(5, 1), *fleet.messages(5, 2)])
        limiter.flush()
    notices = backoff_notices.take_notices(100)
    assert [(notice.schema, notice.device_id, notice.uuid, notice.limit) for notice in notices] == [
        ("t_one", device, str(UUID(int=device)), "device_rate") for device in (1, 2)
    ]
    assert all(notice.value == SLOW and notice.retry_after >= 1 for notice in notices)
    other = Limiter()
    other.admit(fleet.messages(5))
    other.flush()
    assert backoff_notices.take_notices(100) == [], "another listener has told it"


def test_old_hints_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = Limiter()
    limiter.admit(Fleet(LimitSpec(tenant=RateSpec(1, 1))).messages(3))
    limiter.flush()
    later = time.time() + 120
    monkeypatch.setattr(time, "time", lambda: later)
    assert backoff_notices.take_notices(10) == []


def test_a_payload_above_the_tenants_maximum_is_too_large() -> None:
    check_size(b"x" * 10, 100, LimitSpec(max_payload=10))
    check_size(b"x" * 10, 100, None)
    with pytest.raises(Refusal) as refusal:
        check_size(b"x" * 11, 100, LimitSpec(max_payload=10))
    assert (refusal.value.reason, refusal.value.limit) == ("too_large", "max_payload")
    assert "max_payload is 10" in refusal.value.detail


def test_the_usual_batch_asks_redis_for_nothing() -> None:
    limiter = Limiter()
    fleets = [Fleet(LimitSpec(tenant=RateSpec(1e6, 1e7), daily_quota=10**9), f"t_{n}") for n in range(10)]
    batch = [fleet.message(device) for fleet in fleets for device in range(20)]
    # A Redis that another test has restarted loads the script first.
    Limiter().admit([Fleet(LimitSpec(tenant=RateSpec(1e6, 1e7)), "t_before").message(0)])
    asked = _commands(lambda: limiter.admit(batch))
    assert asked == 1, "one round trip for ten tenants"
    limiter.flush()
    assert _commands(lambda: [limiter.admit(batch) for _ in range(2)]) == 0


def _commands(call: Callable[[], Any]) -> int:
    redis = get_redis_connection("default")

    def count() -> int:
        return sum(v["calls"] for name, v in redis.info("commandstats").items() if name.startswith("cmdstat_eval"))

    before = count()
    call()
    return int(count() - before)


def test_refusals_are_counted_by_day_limit_and_device(db: None, tenant_a: Any, tenant_b: Any, enter: Any) -> None:
    from django.db import connection

    from telemetry.models import LimitHit as Counted
    from telemetry.services.storage.bookkeeping import add_limit_counts

    for hits in ({("tenant_rate", None): 3, ("device_rate", 7): 2}, {("tenant_rate", None): 4, ("device_rate", 8): 1}):
        with connection.cursor() as cursor:
            add_limit_counts(cursor.connection, tenant_a.schema_name, hits)
    with enter(tenant_a):
        rows = Counted.objects.values_list("limit", "device_id", "count", "day")
        assert {row[:3] for row in rows} == {("tenant_rate", None, 7), ("device_rate", 7, 2), ("device_rate", 8, 1)}
        assert {row[3] for row in rows} == {datetime.now(UTC).date()}
    with enter(tenant_b):
        assert not Counted.objects.exists()


def test_old_counts_of_devices_are_summed_up(db: None, tenant_a: Any, enter: Any) -> None:
    from datetime import timedelta

    from telemetry.models import LimitHit as Counted
    from telemetry.services import periodic_tasks
    from telemetry.services.storage.bookkeeping import limit_counts_due_before

    old, new = limit_counts_due_before() - timedelta(days=1), limit_counts_due_before()
    with enter(tenant_a):
        for day in (old, new):
            Counted.objects.create(day=day, limit="device_rate", device_id=1, count=2)
            Counted.objects.create(day=day, limit="device_rate", device_id=2, count=3)
        Counted.objects.create(day=old, limit="device_rate", count=4)
        for _ in range(2):
            periodic_tasks.merge_limit_counts_tenant()
            rows = set(Counted.objects.values_list("day", "device_id", "count"))
            assert rows == {(old, None, 9), (new, 1, 2), (new, 2, 3)}


def test_a_tenants_own_limits_come_before_its_plans_and_those_before_the_settings(
    db: None, tenant_a: Any, settings: Any
) -> None:
    from devices.services.specs.loader import tenant_spec
    from tenants.models import Plan, Tenant
    from tenants.services.limits import limits_of, set_limits

    def spec() -> Any:
        return tenant_spec(Tenant.objects.get(pk=tenant_a.pk)).limits

    assert spec() is None
    settings.TENANT_LIMITS = {"tenant_rate": 100.0, "daily_quota": 5}
    assert spec() == LimitSpec(tenant=RateSpec(100, 1000), daily_quota=5)
    plan = Plan.objects.create(name="small", tenant_rate=10, device_rate=1, device_burst=4, max_payload=10**9)
    set_limits(tenant_a, plan=plan, tenant_rate=20, daily_quota=0)
    expected = LimitSpec(tenant=RateSpec(20, 200), device=RateSpec(1, 4), max_payload=settings.INGEST_MAX_PAYLOAD)
    assert spec() == expected
    assert spec() is spec(), "one object for all devices"
    sources = {str(n): one.source for n, one in limits_of(Tenant.objects.get(pk=tenant_a.pk)).items()}
    assert sources == {"tenant_rate": "tenant", "device_rate": "plan", "max_payload": "plan"}
    set_limits(tenant_a, plan=None, tenant_rate=None, daily_quota=None)
    assert spec() == LimitSpec(tenant=RateSpec(100, 1000), daily_quota=5)


@pytest.mark.parametrize("values", [{"tenant_rate": -1}, {"device_rate": float("nan")}, {"tenant_burst": 0}])
def test_limits_that_make_no_sense_are_refused(db: None, tenant_a: Any, values: dict[str, Any]) -> None:
    from django.core.exceptions import ValidationError

    from tenants.services.limits import set_limits

    with pytest.raises(ValidationError) as error:
        set_limits(tenant_a, **values)
    assert error.value.messages


def test_listeners_hear_of_changed_limits(live_db: None, tenant_a: Any) -> None:
    from devices import change_feeds
    from tenants.models import Plan
    from tenants.services.limits import publish_plan_change, set_limits

    def newest() -> int:
        return max(change_feeds.spec_changes_since(0).values(), default=0)

    before = newest()
    set_limits(tenant_a, tenant_rate=1e6)
    changed = newest()
    assert tenant_a.schema_name in change_feeds.spec_changes_since(before + 1)
    plan, _ = Plan.objects.get_or_create(name="of a test")
    set_limits(tenant_a, plan=plan)
    changed = newest()
    publish_plan_change(plan)
    assert tenant_a.schema_name in change_feeds.spec_changes_since(changed + 1)
    set_limits(tenant_a, plan=None, tenant_rate=None)
    plan.delete()
