"""The cost of presence with 100,000 devices: when nothing happens, and when 20,000 fall silent in one second.

Beside it the way of many health checkers: a key `device_state:*` for each device, all of which are scanned in
every pass.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import orjson
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_redis import get_redis_connection
from django_tenants.utils import schema_context

from devices.models import Device, DeviceStatus, StatusChange
from devices.services.presence import activity, health_checker
from devices.services.presence import redis_scripts as scripts
from tenants.infrastructure.chunks import chunks
from tenants.services.lifecycle import create_tenant

_TIMEOUT = 3600.0
_PASSES = 50
_OLD_PASSES = 3
_CHUNK = 5000
_PATIENCE_SECONDS = 120.0


def run(*, devices: int, expiring: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure, verify and return the figures. Raises AssertionError when a figure's work was not done."""
    say(f"Registering {devices} devices")
    schema = _prepare()
    uuids = _register(schema, devices)
    _hear(schema, uuids)
    say("Passes over devices of which none has expired")
    idle = _idle(devices)
    say("The same over a key for each device")
    old = _old_way(uuids)
    figures: dict[str, Any] = {
        "devices": devices,
        "idle": idle,
        "old_way": old,
        "idle_ratio": round(old["pass_ms"] / idle["pass_ms"], 1),
        "expiring": [],
    }
    for checkers in (1, 2):
        say(f"{expiring} devices fall silent in one second, {checkers} checker(s)")
        figures["expiring"].append(_expire(schema, uuids, expiring, checkers))
    return figures


def _prepare() -> str:
    call_command("migrate_schemas", shared=True, verbosity=0)
    return str(create_tenant(slug="bench", name="Bench").schema_name)


def _register(schema: str, count: int) -> list[UUID]:
    """Devices that are ONLINE, as the registration and a first message leave them."""
    uuids = [uuid4() for _ in range(count)]
    with schema_context(schema):
        for chunk in chunks(uuids, _CHUNK):
            rows = Device.objects.bulk_create([Device(uuid=uuid, name=str(uuid)) for uuid in chunk])
            DeviceStatus.objects.bulk_create([DeviceStatus(device=row, status="ONLINE") for row in rows])
    return uuids


def _hear(schema: str, uuids: list[UUID]) -> None:
    """Every device is heard once, now."""
    redis = get_redis_connection("default")
    keys = (scripts.LISTENING, scripts.LAST_SEEN, scripts.DEADLINE, scripts.TIMEOUT)
    for chunk in chunks(uuids, _CHUNK):
        now = activity.redis_now()
        arguments = [part for uuid in chunk for part in (str(uuid), f"{schema}:{uuid}", now, _TIMEOUT)]
        redis.eval(scripts.WRITE_ACTIVITY, len(keys), *keys, orjson.dumps([now, *arguments]))
    redis.set(scripts.MARKER, 1)
    redis.hset(scripts.LISTENING, "since", 0)


def _idle(devices: int) -> dict[str, Any]:
    health_checker.check()
    assert get_redis_connection("default").zcard(scripts.DEADLINE) == devices
    times = []
    with CaptureQueriesContext(connection) as queries:
        for _ in range(_PASSES):
            activity.record_listener_heartbeat()
            began = time.perf_counter()
            done = health_checker.check()
            times.append(time.perf_counter() - began)
            assert done == health_checker.CheckResult(), done
    assert get_redis_connection("default").zcard(scripts.DEADLINE) == devices
    return {
        "pass_ms": round(1000 * statistics.median(times), 3),
        "pass_ms_p99": round(1000 * sorted(times)[int(0.99 * len(times))], 3),
        "queries": len(queries),
    }


def _old_way(uuids: list[UUID]) -> dict[str, Any]:
    """A pass that reads every device's key and compares its time, as many health checkers do."""
    redis = get_redis_connection("default")
    state = {"status": "ONLINE", "last_seen": time.time()}
    for chunk in chunks(uuids, _CHUNK):
        redis.mset({f"device_state:{uuid}": json.dumps(state) for uuid in chunk})
    times = []
    for _ in range(_OLD_PASSES):
        began = time.perf_counter()
        seen, expired = 0, []
        for names in _batches(redis.scan_iter("device_state:*", count=1000), 1000):
            for name, value in zip(names, redis.mget(names), strict=True):
                seen += 1
                if time.time() - json.loads(value)["last_seen"] > _TIMEOUT:
                    expired.append(name)
        times.append(time.perf_counter() - began)
        assert seen >= len(uuids), "a device was not looked at"
        assert not expired
    for chunk in chunks(uuids, _CHUNK):
        redis.delete(*(f"device_state:{uuid}" for uuid in chunk))
    return {"pass_ms": round(1000 * statistics.median(times), 1)}


def _expire(schema: str, uuids: list[UUID], count: int, checkers: int) -> dict[str, Any]:
    """The first `count` devices' deadlines pass within one second; until the last TIMEOUT is committed."""
    redis = get_redis_connection("default")
    before = _timeouts(schema)
    processes = [
        subprocess.Popen([sys.executable, "manage.py", "check_device_health"], stderr=subprocess.DEVNULL)
        for _ in range(checkers)
    ]
    try:
        time.sleep(4)  # the processes start
        activity.record_listener_heartbeat()
        silent = uuids[:count]
        first = activity.redis_now() + 1.0
        for number, chunk in enumerate(chunks(silent, _CHUNK)):
            offsets = {f"{schema}:{uuid}": first + (number * _CHUNK + n) / count for n, uuid in enumerate(chunk)}
            redis.zadd(scripts.DEADLINE, offsets)
        redis.hset(scripts.TIMEOUT, mapping={f"{schema}:{uuid}": 1 for uuid in silent})
        last = first + 1.0
        while _timeouts(schema) - before < count:
            activity.record_listener_heartbeat()
            redis.hset(scripts.LISTENING, "since", 0)
            if activity.redis_now() - last > _PATIENCE_SECONDS:
                raise AssertionError(f"{_timeouts(schema) - before} of {count} devices timed out")
            time.sleep(0.02)
        lag = activity.redis_now() - last
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
    with schema_context(schema):
        timeouts = StatusChange.objects.filter(to_status="TIMEOUT")
        assert timeouts.count() - before == count, "a device timed out twice"
        assert DeviceStatus.objects.filter(status="TIMEOUT").count() == count
        DeviceStatus.objects.filter(status="TIMEOUT").update(status="ONLINE", last_seen_at=None)
    _hear(schema, silent)
    return {"checkers": checkers, "devices": count, "last_commit_after_last_deadline_s": round(lag, 2)}


def _timeouts(schema: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT count(*) FROM {connection.ops.quote_name(schema)}.devices_statuschange"  # noqa: S608
            " WHERE to_status = 'TIMEOUT'"
        )
        return int(cursor.fetchone()[0])


def _batches(items: Iterator[bytes], size: int) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
