"""The checker under what happens to clocks and servers: every state right afterwards, nothing missing or doubled."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db import connection
from django_redis import get_redis_connection
from django_tenants.utils import schema_context

from devices.services.presence import activity, health_checker, timeouts
from devices.services.presence import redis_scripts as scripts
from devices.services.presence.activity import PresenceEvent, PresenceRecorder
from tests.redis_recovery import wait_for_redis

TIMEOUT = 60.0
# Events whose order a test is about are further apart than a clock's offset moves.
OLDER = timedelta(seconds=10)


class Fleet:
    """Devices of tenant alpha, made without keys, and a listener that hears them."""

    def __init__(self, tenant: Any) -> None:
        self.schema = tenant.schema_name
        self.recorder = PresenceRecorder(grace_seconds=2)

    def add(self, count: int = 1) -> list[Any]:
        from devices.models import Device, DeviceStatus

        with schema_context(self.schema):
            devices = [Device.objects.create(uuid=uuid4(), name=f"health {secrets.token_hex(4)}") for _ in range(count)]
            DeviceStatus.objects.bulk_create([DeviceStatus(device=device) for device in devices])
        return devices

    def sign(
        self, device: Any, kind: Any = "telemetry", session: str = "", *, ago: timedelta = timedelta()
    ) -> PresenceEvent:
        return PresenceEvent(kind, self.schema, device.pk, device.uuid, datetime.now(UTC) - ago, TIMEOUT, session)

    def hear(self, *devices: Any) -> None:
        self.recorder.record([self.sign(device) for device in devices])

    def take_silent(self, device: Any) -> tuple[PresenceEvent, health_checker.LeasedDeadlines]:
        """Two events of a device that is silent then: return the older one, and the lease of its expired deadline."""
        first = self.sign(device, ago=2 * OLDER)
        self.recorder.record([first])
        self.recorder.record([self.sign(device, ago=OLDER)])
        self.wait_out(device)
        expired = health_checker.lease_expired(10)
        assert len(expired.members) == 1
        return first, expired

    def statuses(self, device: Any) -> list[str]:
        """The statuses that the device went through, the present one last; as they chain."""
        from devices.models import DeviceStatus, StatusChange

        with schema_context(self.schema):
            changes = list(
                StatusChange.objects.filter(device=device).order_by("id").values_list("from_status", "to_status")
            )
            status = DeviceStatus.objects.get(device=device).status
        chain = ["UNKNOWN", *(new for _, new in changes)]
        assert [old for old, _ in changes] == chain[:-1]
        assert chain[-1] == status
        return chain[1:]

    def shift(self, seconds: float) -> None:
        """Move all stored times by `seconds`, as if the clock had been set by as much the other way."""
        redis = get_redis_connection("default")
        for key in (scripts.LAST_SEEN, scripts.DEADLINE, scripts.EXPIRING):
            for member, score in redis.zrange(key, 0, -1, withscores=True):
                redis.zadd(key, {member: score + seconds})
        for field in ("last", "since"):
            redis.hincrbyfloat(scripts.LISTENING, field, seconds)
        with schema_context(self.schema), connection.cursor() as cursor:
            cursor.execute(
                "UPDATE devices_devicestatus"
                " SET last_seen_at = last_seen_at + %s::interval, since = since + %s::interval",
                [f"{seconds} seconds"] * 2,
            )

    def wait_out(self, *devices: Any) -> None:
        """The devices' timeouts pass."""
        redis = get_redis_connection("default")
        activity.record_listener_heartbeat()
        redis.hset(scripts.LISTENING, "since", 1)
        redis.zadd(scripts.DEADLINE, {f"{self.schema}:{device.uuid}": 1 for device in devices}, xx=True)


@pytest.fixture
def fleet(live_db: None, tenant_a: Any) -> Iterator[Fleet]:
    from devices.models import Device

    get_redis_connection("default").flushdb()
    get_redis_connection("default").set(scripts.MARKER, 1)
    yield Fleet(tenant_a)
    with schema_context(tenant_a.schema_name):
        Device.objects.filter(name__startswith="health ").delete()
    get_redis_connection("default").flushdb()


@pytest.mark.parametrize("step", [3600.0, -3600.0, 20.0, -20.0], ids=lambda step: f"set by {step:+.0f} s")
def test_the_clock_is_set(fleet: Fleet, step: float) -> None:
    talking, silent = fleet.add(2)
    fleet.hear(talking, silent)
    fleet.shift(-step)
    health_checker.check()  # a checker may come first, or the listener
    activity.record_listener_heartbeat()
    health_checker.check()
    fleet.hear(talking)
    health_checker.check()
    assert fleet.statuses(talking) == ["ONLINE"]
    assert fleet.statuses(silent) == ["ONLINE"], "its silence is not known yet"
    # Whatever the step: no deadline is further away than a timeout from now.
    redis = get_redis_connection("default")
    for device in (talking, silent):
        deadline = redis.zscore(scripts.DEADLINE, f"{fleet.schema}:{device.uuid}")
        assert deadline - activity.redis_now() < TIMEOUT + 25
    fleet.wait_out(silent)
    health_checker.check()
    assert fleet.statuses(silent) == ["ONLINE", "TIMEOUT"]
    fleet.hear(silent)
    assert fleet.statuses(silent) == ["ONLINE", "TIMEOUT", "ONLINE"]


def test_redis_is_emptied(fleet: Fleet) -> None:
    talking, silent = fleet.add(2)
    fleet.hear(talking, silent)
    get_redis_connection("default").flushall()
    health_checker.check()
    redis = get_redis_connection("default")
    assert redis.zscore(scripts.DEADLINE, f"{fleet.schema}:{silent.uuid}") is not None
    fleet.hear(talking)
    fleet.wait_out(silent)
    health_checker.check()
    assert (fleet.statuses(talking), fleet.statuses(silent)) == (["ONLINE"], ["ONLINE", "TIMEOUT"])


def test_redis_is_restarted(fleet: Fleet, stack: Any) -> None:
    talking, silent = fleet.add(2)
    fleet.hear(talking, silent)
    stack.stop_server("valkey")
    fleet.hear(talking)  # kept, and told when Redis is back
    stack.start_server("valkey")
    wait_for_redis()
    fleet.hear(talking)
    health_checker.check()
    assert (fleet.statuses(talking), fleet.statuses(silent)) == (["ONLINE"], ["ONLINE"])
    fleet.wait_out(silent)
    health_checker.check()
    assert (fleet.statuses(talking), fleet.statuses(silent)) == (["ONLINE"], ["ONLINE", "TIMEOUT"])


def test_nobody_listens(fleet: Fleet) -> None:
    """Without a listener no silence is evidence; with one again, every device gets the whole timeout."""
    [device] = fleet.add()
    fleet.hear(device)
    redis = get_redis_connection("default")
    fleet.wait_out(device)
    redis.hset(scripts.LISTENING, "last", activity.redis_now() - 10)
    assert health_checker.check().obstacle == "no_listener"
    activity.record_listener_heartbeat()
    health_checker.check()
    assert fleet.statuses(device) == ["ONLINE"]
    assert redis.zscore(scripts.DEADLINE, f"{fleet.schema}:{device.uuid}") > activity.redis_now() + TIMEOUT - 5


@pytest.mark.parametrize("moment", ["before its silence is counted", "before its lease ends", "afterwards"])
def test_heard_again_after_an_older_sign_came_again(fleet: Fleet, moment: str) -> None:
    """The older one puts the deadline back, so that the newer one is nothing new to the listener."""
    [device] = fleet.add()
    first, expired = fleet.take_silent(device)
    fleet.recorder.record([first])
    if moment == "before its silence is counted":
        fleet.hear(device)
    silenced = health_checker.apply_silence(expired)
    if moment == "before its lease ends":
        fleet.hear(device)
    health_checker.release_leases(expired, silenced)
    if moment == "afterwards":
        fleet.hear(device)
    assert fleet.statuses(device)[-1] == "ONLINE"
    assert get_redis_connection("default").zcard(scripts.EXPIRING) == 0
    fleet.wait_out(device)
    health_checker.check()
    assert fleet.statuses(device)[-1] == "TIMEOUT", "its next silence counts"


def test_heard_again_after_an_older_sign_came_again_behind_its_will(fleet: Fleet) -> None:
    [device] = fleet.add()
    first = fleet.sign(device, ago=OLDER)
    fleet.recorder.record([first])
    fleet.recorder.record([fleet.sign(device, "will", "of-this-session")])
    fleet.recorder.record([first])
    assert fleet.statuses(device) == ["ONLINE", "OFFLINE"]
    assert get_redis_connection("default").zcard(scripts.DEADLINE) == 0
    fleet.hear(device)
    assert fleet.statuses(device) == ["ONLINE", "OFFLINE", "ONLINE"]


def test_an_old_deadline_that_cannot_be_dropped_hides_nothing(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis went away between the old sign and its answer: the listener still tells PostgreSQL of the next one."""
    [device] = fleet.add()
    first, expired = fleet.take_silent(device)
    health_checker.apply_timeouts(expired)
    with monkeypatch.context() as patch:
        patch.setattr(activity, "drop_deadlines", lambda _: None)
        fleet.recorder.record([first])
    assert fleet.statuses(device) == ["ONLINE", "TIMEOUT"]
    fleet.hear(device)
    assert fleet.statuses(device) == ["ONLINE", "TIMEOUT", "ONLINE"]


@pytest.mark.parametrize("is_restarted", [False, True])
def test_an_event_that_is_recorded_again_is_not_newer_than_itself(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, is_restarted: bool
) -> None:
    """Its second request reaches Redis later than its first."""
    [device] = fleet.add()
    event = fleet.sign(device)
    fleet.recorder.record([event])
    seen = activity.last_seen([device.uuid])
    fleet.wait_out(device)
    health_checker.check()
    if is_restarted:
        fleet.recorder = PresenceRecorder(grace_seconds=2)
    monkeypatch.setattr(activity, "get_redis_connection", lambda _: SlowRedis())
    fleet.recorder.record([event])
    assert activity.last_seen([device.uuid]) == seen
    assert fleet.statuses(device) == ["ONLINE", "TIMEOUT"]


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_listener_whose_clock_was_set_dates_events_by_the_clock_of_redis(fleet: Fleet, hours: int) -> None:
    [device] = fleet.add()
    fleet.hear(device)
    assert fleet.recorder._clock is not None
    fleet.recorder._clock.ahead += timedelta(hours=hours)
    now = activity.redis_now()
    fleet.hear(device)
    assert now <= activity.last_seen([device.uuid])[device.uuid] <= activity.redis_now()
    assert abs(fleet.recorder._clock.ahead) < timedelta(minutes=1)


class SlowRedis:
    """The run's Redis, behind a network that delivers each request 30 ms later."""

    def __getattr__(self, command: str) -> Callable[..., Any]:
        def send(*arguments: Any, **options: Any) -> Any:
            time.sleep(0.03)
            return getattr(get_redis_connection("default"), command)(*arguments, **options)

        return send


@pytest.mark.parametrize("is_heard", [True, False])
def test_a_checker_dies_before_its_leases_end(fleet: Fleet, is_heard: bool) -> None:
    """It has called the device silent; what it heard meanwhile the next one finds."""
    [device] = fleet.add()
    first, expired = fleet.take_silent(device)
    fleet.recorder.record([first])
    assert health_checker.apply_silence(expired).timed_out == 1
    if is_heard:
        fleet.hear(device)
    get_redis_connection("default").zadd(scripts.EXPIRING, {f"{fleet.schema}:{device.uuid}": 1}, xx=True)
    health_checker.check()
    assert fleet.statuses(device)[1:] == (["TIMEOUT", "ONLINE"] if is_heard else ["TIMEOUT"])
    fleet.hear(device)
    assert fleet.statuses(device)[1:] == ["TIMEOUT", "ONLINE"]


def test_messages_wait_for_locked_tables(fleet: Fleet) -> None:
    """A device's messages may be among them: its silence is not evidence before they are stored."""
    redis = get_redis_connection("default")
    waiting, leased = fleet.add(2)
    member = f"{fleet.schema}:{leased.uuid}"
    fleet.hear(waiting, leased)
    fleet.wait_out(leased)
    assert set(health_checker.lease_expired(10).members) == {member}, "by a checker that dies then"
    redis.zadd(scripts.EXPIRING, {member: 1})
    activity.suspend_timeouts([fleet.schema])
    fleet.wait_out(waiting)
    health_checker.check()
    assert (fleet.statuses(waiting), fleet.statuses(leased)) == (["ONLINE"], ["ONLINE"])
    assert redis.zscore(scripts.DEADLINE, member) - activity.redis_now() < scripts.SUSPENSION_SECONDS
    # They have been stored, or no listener renews the suspension.
    for until in (activity.redis_now() - 0.1, activity.redis_now() + 3600):  # the clock was set back
        redis.hset(scripts.SUSPENDED_TIMEOUTS, fleet.schema, until)
        fleet.hear(waiting, leased)
        fleet.wait_out(waiting, leased)
        health_checker.check()
        assert (fleet.statuses(waiting)[-1], fleet.statuses(leased)[-1]) == ("TIMEOUT", "TIMEOUT")


def test_another_tenants_messages_wait(fleet: Fleet) -> None:
    [device] = fleet.add()
    fleet.hear(device)
    activity.suspend_timeouts(["t_other"])
    fleet.wait_out(device)
    health_checker.check()
    assert fleet.statuses(device) == ["ONLINE", "TIMEOUT"]


def test_several_checkers_do_nothing_twice(fleet: Fleet) -> None:
    devices = fleet.add(120)
    fleet.hear(*devices)
    fleet.wait_out(*devices)
    timed_out: list[int] = []

    def work() -> None:
        try:
            for _ in range(6):
                timed_out.append(health_checker.check(limit=25).timed_out)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(timed_out) == 120
    assert all(fleet.statuses(device) == ["ONLINE", "TIMEOUT"] for device in devices)


def test_a_checker_dies_in_the_middle_of_a_batch(fleet: Fleet) -> None:
    devices = fleet.add(10)
    fleet.hear(*devices)
    fleet.wait_out(*devices)
    assert len(health_checker.lease_expired(100).members) == 10  # and no more is heard of it
    fleet.hear(devices[0])
    assert health_checker.check().expired == 0, "its leases hold"
    get_redis_connection("default").zadd(
        scripts.EXPIRING, {f"{fleet.schema}:{device.uuid}": 1 for device in devices}, xx=True
    )
    assert health_checker.check().timed_out == 9
    assert fleet.statuses(devices[0]) == ["ONLINE"]


def test_a_slow_checker_ends_no_lease_of_another(fleet: Fleet) -> None:
    [device] = fleet.add()
    redis, member = get_redis_connection("default"), f"{fleet.schema}:{device.uuid}"
    first, slow = fleet.take_silent(device)
    fleet.hear(device)
    silenced = health_checker.apply_silence(slow)
    fleet.wait_out(device)
    redis.zadd(scripts.EXPIRING, {member: 1})
    other = health_checker.lease_expired(10)
    fleet.recorder.record([first])
    assert health_checker.apply_silence(other).timed_out == 1
    fleet.hear(device)
    health_checker.release_leases(slow, silenced)
    assert redis.zscore(scripts.EXPIRING, member) is not None
    redis.zadd(scripts.EXPIRING, {member: 1})  # the other one dies
    health_checker.check()
    assert fleet.statuses(device) == ["ONLINE", "TIMEOUT", "ONLINE"]


def test_the_command_takes_everything_once(fleet: Fleet) -> None:
    devices = fleet.add(30)
    fleet.hear(*devices)
    fleet.wait_out(*devices)
    call_command("check_device_health", once=True, reconcile=True, batch=7)
    assert {tuple(fleet.statuses(device)) for device in devices} == {("ONLINE", "TIMEOUT")}


def test_a_will_overtaken_by_telemetry_leaves_no_row(fleet: Fleet) -> None:
    """The telemetry was heard by another listener, which found the device ONLINE and told Redis alone."""
    [device] = fleet.add()
    fleet.hear(device)
    gone = datetime.now(UTC)
    fleet.hear(device)
    will = PresenceEvent("will", fleet.schema, device.pk, device.uuid, gone, TIMEOUT, session="s")
    PresenceRecorder(grace_seconds=2).record([will])
    assert fleet.statuses(device) == ["ONLINE"]


def test_flapping_is_noticed(fleet: Fleet) -> None:
    from devices.models import DeviceStatus

    [device] = fleet.add()
    for _ in range(3):
        fleet.hear(device)
        fleet.wait_out(device)
        health_checker.check()
    with schema_context(fleet.schema):
        until = DeviceStatus.objects.get(device=device).flapping_until
    assert until is not None
    assert until > datetime.now(UTC) + timedelta(minutes=9)


def test_a_deactivated_device_is_neither(fleet: Fleet) -> None:
    from devices.services.provisioning.activation import set_active

    [device] = fleet.add()
    fleet.hear(device)
    with schema_context(fleet.schema):
        assert set_active(device, False)
        assert not set_active(device, False)
    assert get_redis_connection("default").zscore(scripts.DEADLINE, f"{fleet.schema}:{device.uuid}") is None
    fleet.wait_out(device)
    health_checker.check()
    assert fleet.statuses(device) == ["ONLINE", "UNKNOWN"]


@pytest.mark.parametrize(
    ("own", "model", "least", "intervals", "expected"),
    [
        (5, 7, 60, [10], 5.0),
        (None, 7, 60, [10], 7.0),
        (None, None, 60, [], 60.0),
        (None, None, 60, [10], 60.0),
        (None, None, 60, [40], 80.0),
        (None, None, 60, [600, 300], 600.0),
        (None, None, 10, [4], 10.0),
    ],
)
def test_whose_timeout_counts(
    own: int | None, model: int | None, least: int, intervals: list[int], expected: float
) -> None:
    assert timeouts.timeout_of(own, model, least, intervals) == expected


def test_timeouts_of_many_are_those_of_one(fleet: Fleet, register: Callable[..., Any]) -> None:
    """The query for the reconciliation agrees with the listener's specification."""
    from devices.models import Component, Device
    from devices.services.specs.loader import load_specs

    registered = [register(), register(components={"dht22": "dht22", "soil": "soil"}), register(components={})]
    with schema_context(fleet.schema):
        Device.objects.filter(pk=registered[0].device.pk).update(timeout_seconds=7)
        Component.objects.filter(device=registered[1].device, key="soil").update(expected_interval=50)
        uuids = [row.device.uuid for row in registered]
        found = timeouts.timeouts_of(Device.objects.filter(uuid__in=uuids))
    specs = load_specs(uuids)
    assert found == {uuid: specs[uuid].timeout_seconds for uuid in uuids}
    assert [found[uuid] for uuid in uuids] == [7.0, 100.0, 60.0]
