"""A gateway's end and return, and the states of its children: one change of each, and nothing lost on the way."""

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django_redis import get_redis_connection
from django_tenants.utils import schema_context

from devices.services.presence import activity, gateways, health_checker, state_store
from devices.services.presence import redis_scripts as scripts
from devices.services.presence.activity import PresenceEvent, PresenceRecorder

TIMEOUT = 60.0


class Home:
    """A gateway of tenant alpha with children, and a listener."""

    def __init__(self, tenant: Any, count: int) -> None:
        from devices.models import Device, DeviceStatus

        self.schema = tenant.schema_name
        self.recorder = PresenceRecorder(grace_seconds=2)
        with schema_context(self.schema):
            name = f"gateway {secrets.token_hex(4)}"
            self.gateway = Device.objects.create(uuid=uuid4(), name=name)
            self.children = [
                Device.objects.create(uuid=uuid4(), name=f"{name} {n}", gateway=self.gateway) for n in range(count)
            ]
            DeviceStatus.objects.bulk_create([DeviceStatus(device=one) for one in (self.gateway, *self.children)])

    def event(self, device: Any, kind: Any = "telemetry", *, ago: float = 0.0, session: str = "") -> PresenceEvent:
        at = datetime.now(UTC) - timedelta(seconds=ago)
        return PresenceEvent(kind, self.schema, device.pk, device.uuid, at, TIMEOUT, session, at)

    def hear(self, *devices: Any, ago: float = 0.0) -> None:
        self.recorder.record([self.event(device, ago=ago) for device in devices])

    def leave(self, *, ago: float = 0.0) -> None:
        self.recorder.record([self.event(self.gateway, "will", session="a", ago=ago)])

    def come(self, session: str = "a", *, ago: float = 0.0) -> None:
        self.recorder.record([self.event(self.gateway, "birth", session=session, ago=ago)])

    def changes(self, device: Any) -> list[tuple[str, str]]:
        """(new status, cause) of each change; they chain up to the present state."""
        from devices.models import DeviceStatus, StatusChange

        with schema_context(self.schema):
            rows = list(
                StatusChange.objects.filter(device=device)
                .order_by("id")
                .values_list("from_status", "to_status", "cause")
            )
            status = DeviceStatus.objects.get(device=device).status
        chain = ["UNKNOWN", *(new for _, new, _ in rows)]
        assert [old for old, _, _ in rows] == chain[:-1]
        assert chain[-1] == status
        return [(new, cause) for _, new, cause in rows]

    def has_deadline(self, device: Any) -> bool:
        return get_redis_connection("default").zscore(scripts.DEADLINE, f"{self.schema}:{device.uuid}") is not None

    def end_returns(self) -> None:
        """Let the timeouts of the children end whose gateway is back."""
        redis = get_redis_connection("default")
        for member in redis.zrange(scripts.PENDING_RETURNS, 0, -1):
            redis.zadd(scripts.PENDING_RETURNS, {member: 1})
        redis.hset(scripts.LISTENING, mapping={"last": activity.redis_now(), "since": 1})
        health_checker.check()


@pytest.fixture
def home(live_db: None, tenant_a: Any) -> Iterator[Any]:
    get_redis_connection("default").flushdb()
    made: list[Home] = []

    def make(count: int = 3) -> Home:
        made.append(Home(tenant_a, count))
        return made[-1]

    yield make
    from devices.models import Device

    with schema_context(tenant_a.schema_name):
        for one in made:
            Device.objects.filter(pk__in=[one.gateway.pk, *(child.pk for child in one.children)]).delete()
    get_redis_connection("default").flushdb()


ONLINE, HIDDEN = ("ONLINE", "telemetry"), ("UNKNOWN", "gateway")


def test_a_gateway_that_is_gone_hides_its_children_once(home: Any) -> None:
    one = home(50)
    one.come(ago=20)
    one.hear(*one.children, ago=10)
    one.leave(ago=5)
    one.leave(ago=4)
    health_checker.check()
    assert one.changes(one.gateway) == [("ONLINE", "birth"), ("OFFLINE", "will")]
    for child in one.children:
        assert one.changes(child) == [ONLINE, HIDDEN]
        assert not one.has_deadline(child)


def test_children_say_themselves_that_they_are_there_again(home: Any) -> None:
    one = home(3)
    one.come(ago=20)
    one.hear(*one.children, ago=10)
    one.leave(ago=5)
    one.come("b", ago=3)
    assert [one.changes(child)[-1] for child in one.children] == [HIDDEN] * 3, "the gateway proves nothing of them"
    one.hear(one.children[0])
    one.end_returns()
    assert one.changes(one.children[0]) == [ONLINE, HIDDEN, ONLINE]
    assert one.has_deadline(one.children[0])
    for silent in one.children[1:]:
        assert one.changes(silent) == [ONLINE, HIDDEN, ("TIMEOUT", "timeout")]
    one.end_returns()
    one.hear(one.children[1])
    assert one.changes(one.children[1])[-1] == ONLINE


def test_a_gateway_that_is_gone_again_ends_the_wait(home: Any) -> None:
    one = home(1)
    one.come(ago=20)
    one.hear(*one.children, ago=10)
    one.leave(ago=9)
    one.come("b", ago=8)
    one.recorder.record([one.event(one.gateway, "will", session="b", ago=2)])
    one.end_returns()
    assert one.changes(one.children[0]) == [ONLINE, HIDDEN]


def test_evidence_that_is_newer_than_the_gateways_end_counts(home: Any) -> None:
    """Also where it is in Redis alone, and where it is in the same batch as the will."""
    one = home(3)
    one.come(ago=30)
    one.hear(*one.children, ago=20)
    one.hear(one.children[0], ago=3)
    one.recorder.record([one.event(one.gateway, "will", session="a", ago=5), one.event(one.children[1], ago=4)])
    for child in one.children[:2]:
        assert one.changes(child) == [ONLINE]
        assert one.has_deadline(child), "ONLINE without a deadline is ONLINE for ever"
    assert one.changes(one.children[2]) == [ONLINE, HIDDEN]
    one.hear(one.children[2], ago=10)
    assert one.changes(one.children[2]) == [ONLINE, HIDDEN], "a message from before the end came late"


def test_a_silent_gateway_hides_its_children(home: Any) -> None:
    one = home(2)
    one.hear(one.gateway, *one.children, ago=10)
    redis = get_redis_connection("default")
    redis.hset(scripts.LISTENING, mapping={"last": activity.redis_now(), "since": 1})
    redis.set(scripts.MARKER, 1)
    redis.zadd(scripts.DEADLINE, {f"{one.schema}:{one.gateway.uuid}": 1})
    assert health_checker.check().timed_out == 1
    assert one.changes(one.gateway) == [ONLINE, ("TIMEOUT", "timeout")]
    assert [one.changes(child) for child in one.children] == [[ONLINE, HIDDEN]] * 2


def test_what_a_child_says_of_itself_stays(home: Any) -> None:
    """A child that is OFFLINE or in TIMEOUT by its own evidence is not changed by its gateway."""
    one = home(2)
    one.come(ago=30)
    one.hear(*one.children, ago=20)
    one.recorder.record([one.event(one.children[0], "will", session="x", ago=10)])
    redis = get_redis_connection("default")
    redis.hset(scripts.LISTENING, mapping={"last": activity.redis_now(), "since": 1})
    redis.set(scripts.MARKER, 1)
    redis.zadd(scripts.DEADLINE, {f"{one.schema}:{one.children[1].uuid}": 1})
    health_checker.check()
    one.leave(ago=5)
    assert one.changes(one.children[0]) == [ONLINE, ("OFFLINE", "will")]
    assert one.changes(one.children[1]) == [ONLINE, ("TIMEOUT", "timeout")]


def test_a_deactivated_gateway_hides_its_children(home: Any) -> None:
    from devices.services.provisioning.activation import set_active

    one = home(2)
    one.hear(one.gateway, *one.children, ago=10)
    with schema_context(one.schema):
        set_active(one.gateway, False)
    assert [one.changes(child)[-1] for child in one.children] == [HIDDEN] * 2


def test_a_transaction_that_fails_changes_neither(home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes again, with the removed deadlines, and the outcome is the same."""
    one = home(2)
    one.come(ago=20)
    one.hear(*one.children, ago=10)
    will = one.event(one.gateway, "will", session="a", ago=5)
    with monkeypatch.context() as patch:
        patch.setattr(state_store, "_add_changes", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            one.recorder.record([will])
    assert one.changes(one.gateway) == [("ONLINE", "birth")]
    one.recorder.record([will])
    assert [one.changes(child) for child in one.children] == [[ONLINE, HIDDEN]] * 2


def test_redis_that_was_emptied_forgets_no_return(home: Any) -> None:
    one = home(2)
    one.come(ago=20)
    one.hear(*one.children, ago=10)
    one.leave(ago=5)
    one.come("b", ago=3)
    get_redis_connection("default").flushdb()
    activity.record_listener_heartbeat()
    health_checker.check()
    assert get_redis_connection("default").zcard(scripts.PENDING_RETURNS) == 2
    one.end_returns()
    assert [one.changes(child)[-1] for child in one.children] == [("TIMEOUT", "timeout")] * 2


def test_a_return_is_not_judged_while_nobody_listens(home: Any) -> None:
    one = home(1)
    one.come(ago=20)
    one.hear(*one.children, ago=10)
    one.leave(ago=5)
    one.come("b", ago=3)
    redis = get_redis_connection("default")
    (member,) = redis.zrange(scripts.PENDING_RETURNS, 0, -1)
    redis.zadd(scripts.PENDING_RETURNS, {member: 1})
    now = activity.redis_now()
    redis.hset(scripts.LISTENING, mapping={"last": now, "since": now - 1})
    health_checker.decide_pending_returns(10)
    assert redis.zscore(scripts.PENDING_RETURNS, member) == pytest.approx(now - 1 + TIMEOUT)
    assert one.changes(one.children[0])[-1] == HIDDEN


def test_children_of_a_gateway_are_found_by_an_index(home: Any) -> None:
    one = home(2)
    with connection.cursor() as cursor:
        quoted = connection.ops.quote_name(one.schema)
        found = gateways.children_of(cursor, quoted, [one.gateway.pk])
        assert {child.uuid for child in found} == {child.uuid for child in one.children}
        cursor.execute("SET enable_seqscan = off")
        text = f"SELECT id FROM {quoted}.devices_device WHERE gateway_id = ANY('{{1,2}}') AND active"  # noqa: S608
        cursor.execute(f"EXPLAIN {text}")
        plan = "\n".join(row[0] for row in cursor.fetchall())
        cursor.execute("RESET enable_seqscan")
    assert "device_children" in plan
