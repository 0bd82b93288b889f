"""The newest value of every series: listeners write it to Redis, readers query Redis and the table, and the worker
persists it in the table.

Each tenant has a hash in Redis that only a script advances, so any number of listeners can write. A reader sees when
the hash may be incomplete, and then reads the newest readings themselves, which is exact and somewhat slower:

- Redis was emptied or restored: the tenant's hash does not name the present *generation* as the one that it is
  complete for.
- A listener died before its write to Redis: every listener has a heartbeat. A late heartbeat makes the hash
  untrusted and ends the generation; so does a listener that starts, or that lost Redis.

The worker then refills the tenants' hashes. The table is exact for all hours that are rolled up; beyond that it is only
as new as the last write, so it is never read alone.
"""

import logging
import time as clock
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import orjson
from django_redis import get_redis_connection
from redis.exceptions import RedisError, ResponseError

from telemetry.services.rollups import latest_table
from telemetry.services.rollups.latest_table import NewestReading
from telemetry.services.work_lock import locked_step
from tenants.infrastructure.chunks import chunks
from tenants.infrastructure.database import current_schema

from . import redis_scripts as scripts

logger = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_CHUNK = 5000
_BEAT_SECONDS = 1.0
_PAUSE_SECONDS = 5.0
# The most values buffered while Redis is unavailable. Beyond it they are dropped, and readers query the readings.
_MAX_BUFFERED = 200_000


class LatestRecorder:
    """A listener's buffer of newest values for Redis. Not shared between threads.

    Make it before the first batch is stored; `note` what is committed, `flush` about once a second, `close` at the
    end. While Redis is unavailable, readers query the readings.
    """

    def __init__(self) -> None:
        self._name = uuid4().hex
        # By schema and series.
        self._newest: dict[str, dict[int, tuple[int, float | str]]] = {}
        self._failed = False
        self._beat_at = 0.0
        self._paused_until = 0.0
        self.flush()

    def note(self, schema: str, series_id: int, micros: int, value: float | str) -> None:
        """Note a stored reading; `micros` since 1970. A reading older than the newest one has no effect."""
        self.note_all(schema, [(series_id, micros, value)])

    def note_all(self, schema: str, readings: Iterable[tuple[int, int, float | str]], since: int = 0) -> None:
        """Note stored readings (series, time, value); times are microseconds since `since`, itself since 1970."""
        newest = self._newest.setdefault(schema, {})
        for series_id, time, value in readings:
            reading = time + since, value
            known = newest.get(series_id)
            if known is None or known < reading:
                newest[series_id] = reading

    def mark_incomplete(self) -> None:
        """Mark the values in Redis as incomplete: readers use the stored readings until a worker has completed them."""
        self._failed = True

    def flush(self) -> None:
        """Write the noted values and the heartbeat to Redis, in one round trip."""
        now = clock.monotonic()
        if now < self._paused_until or (not self._newest and not self._failed and now < self._beat_at):
            return
        try:
            self._send()
        except RedisError as error:
            self._keep(error)
        else:
            self._newest.clear()
            self._failed = False
            self._beat_at = now + _BEAT_SECONDS

    def close(self) -> None:
        """Write the rest to Redis and sign off."""
        self._paused_until = self._beat_at = 0.0
        self.flush()
        if not self._newest:
            try:
                get_redis_connection("default").hdel(scripts.WRITERS, self._name)
            except RedisError:
                logger.warning("Redis is unavailable: the listener counts as stopped there until a worker has checked")

    def _send(self) -> None:
        pipeline = get_redis_connection("default").pipeline(transaction=False)
        pipeline.eval(scripts.HEARTBEAT, 2, scripts.WRITERS, scripts.GENERATION, self._name, int(self._failed))
        by_schema: dict[str, list[Any]] = {}
        for schema, newest in self._newest.items():
            arguments = by_schema[schema] = []
            for series, (micros, value) in newest.items():
                arguments += (str(series), str(micros), encode_value(value))
        for schema, arguments in by_schema.items():
            _advance(pipeline, schema, arguments)
        pipeline.execute()

    def _keep(self, error: RedisError) -> None:
        if not self._failed:
            logger.warning("Redis is unavailable (%s): the newest values are buffered", error)
        self._failed = True
        self._paused_until = clock.monotonic() + _PAUSE_SECONDS
        if sum(map(len, self._newest.values())) > _MAX_BUFFERED:
            self._newest.clear()


def newest_readings(series_ids: Iterable[int]) -> dict[int, NewestReading]:
    """Return the newest reading by series id of the current tenant; series without readings are left out.

    Reads Redis and the table, and the readings themselves where these may be incomplete.
    """
    series = sorted(set(series_ids))
    if not series:
        return {}
    trusted, cached = _read_redis(series)
    return latest_table.find_newest(series, cached, trusted=trusted)


def component_reading_times(device_ids: Collection[int]) -> dict[tuple[int, str], datetime]:
    """Return the time of the newest reading by (device id, component key) in the current tenant; two queries.

    Components without readings are left out.
    """
    from telemetry.models import Series

    series = Series.objects.filter(device_id__in=device_ids).order_by().values_list("pk", "device_id", "component")
    components = {pk: (device, component) for pk, device, component in series}
    found: dict[tuple[int, str], datetime] = {}
    for pk, newest in newest_readings(components).items():
        key = components[pk]
        found[key] = max(newest.time, found.get(key, newest.time))
    return found


def _read_redis(series: Sequence[int]) -> tuple[bool, dict[int, NewestReading]]:
    """Return whether Redis is complete, and its values."""
    keys = scripts.WRITERS, scripts.GENERATION, values_key(current_schema())
    try:
        answer = get_redis_connection("default").eval(scripts.READ, 3, *keys, orjson.dumps([str(pk) for pk in series]))
    except RedisError as error:
        logger.warning("Redis is unavailable (%s): newest values are read from PostgreSQL", error)
        return False, {}
    trusted, values = orjson.loads(answer)
    return trusted, {pk: decode_reading(value) for pk, value in zip(series, values, strict=True) if value}


# --- the worker's part ------------------------------------------------------------------------------------------


def expire_stopped_listeners() -> None:
    """End the generation when a listener's heartbeat stopped; the workers then refill the tenants' hashes."""
    get_redis_connection("default").eval(scripts.EXPIRE_LISTENERS, 2, scripts.WRITERS, scripts.GENERATION)


def incomplete_tenants(schemas: Sequence[str]) -> list[str]:
    """Return the tenants whose hash is not complete for the current generation."""
    pipeline = get_redis_connection("default").pipeline(transaction=False)
    pipeline.get(scripts.GENERATION)
    for schema in schemas:
        pipeline.hget(values_key(schema), scripts.COMPLETE)
    generation, *completed = pipeline.execute()
    return [schema for schema, known in zip(schemas, completed, strict=True) if known is None or known != generation]


def refill() -> int:
    """Write the newest value of every series of the current tenant to Redis; return the number of series."""
    redis = get_redis_connection("default")
    key = values_key(current_schema())
    # Before anything is read: what is missed from here on ends this generation.
    generation = redis.eval(scripts.CURRENT_GENERATION, 1, scripts.GENERATION)
    count = 0
    for series in _all_series():
        newest = latest_table.find_newest(series, {}, trusted=False)
        arguments: list[Any] = []
        for pk, one in newest.items():
            arguments.extend((str(pk), str((one.time - _EPOCH) // _MICROSECOND), encode_value(one.value)))
        _advance(redis, current_schema(), arguments)
        count += len(series)
    redis.hset(key, scripts.COMPLETE, generation)
    return count


def persist() -> int:
    """Write the current tenant's changed values from Redis to the table; return the number of changed series.

    The set of changed series is renamed first and removed after the commit, so the next run repeats a run that died.
    """
    redis = get_redis_connection("default")
    schema = current_schema()
    changed, moving = changed_key(schema), moving_key(schema)
    if not redis.exists(moving):
        try:
            redis.rename(changed, moving)
        except ResponseError:
            return 0  # nothing changed
    count = 0
    for chunk in chunks(redis.sscan_iter(moving, count=_CHUNK), _CHUNK):
        series = sorted({int(name) for name in chunk})
        values = redis.hmget(values_key(schema), series)
        rows = {pk: decode_reading(raw.decode()) for pk, raw in zip(series, values, strict=True) if raw is not None}
        with locked_step() as (cursor, _):
            latest_table.advance(cursor, rows.items())
        count += len(series)
    redis.delete(moving)
    return count


def forget_tenant(schema: str) -> None:
    """Remove the tenant's values from Redis."""
    get_redis_connection("default").delete(values_key(schema), changed_key(schema), moving_key(schema))


def forget_new_tenant() -> None:
    """Remove values of a former tenant with the name of a new schema."""
    try:
        forget_tenant(current_schema())
    except RedisError as error:
        logger.warning("Redis is unavailable (%s): newest values of a former tenant with this name may appear", error)


def forget_others(schemas: Iterable[str]) -> int:
    """Remove the values of all other tenants from Redis; return the number of keys."""
    redis = get_redis_connection("default")
    wanted = {key for schema in schemas for key in (values_key(schema), changed_key(schema), moving_key(schema))}
    gone = [name for raw in redis.scan_iter(f"{scripts.PREFIX}*", count=1000) if (name := raw.decode()) not in wanted]
    if gone:
        redis.delete(*gone)
    return len(gone)


def forget_before(time: datetime) -> None:
    """Remove the current tenant's older values from Redis, whose readings retention has dropped."""
    redis = get_redis_connection("default")
    key = values_key(current_schema())
    old = [
        name
        for name, raw in redis.hscan_iter(key, count=_CHUNK)
        if name.decode() != scripts.COMPLETE and decode_reading(raw.decode()).time < time
    ]
    for chunk in chunks(old, _CHUNK):
        redis.hdel(key, *chunk)


def values_key(schema: str) -> str:
    """Return the key of the tenant's hash: series id → time and value."""
    return f"{scripts.PREFIX}{schema}"


def changed_key(schema: str) -> str:
    """Return the key of the set of series ids that changed since the last write to the table."""
    return f"{scripts.PREFIX}{schema}:changed"


def moving_key(schema: str) -> str:
    """Return the key of the set of series ids that are being written to the table."""
    return f"{scripts.PREFIX}{schema}:moving"


def _advance(redis: Any, schema: str, arguments: list[Any]) -> None:
    for start in range(0, len(arguments), 3 * _CHUNK):
        chunk = arguments[start : start + 3 * _CHUNK]
        redis.eval(scripts.ADVANCE, 2, values_key(schema), changed_key(schema), orjson.dumps(chunk))


def _all_series() -> Iterator[list[int]]:
    from telemetry.models import Series

    after = 0
    while found := list(Series.objects.filter(pk__gt=after).order_by("pk").values_list("pk", flat=True)[:_CHUNK]):
        yield found
        after = found[-1]


def encode_value(value: float | str) -> str:
    """Return a value as stored in Redis: n and a number, or t and a text."""
    return f"t{value}" if isinstance(value, str) else f"n{float(value)!r}"


def decode_reading(kept: str) -> NewestReading:
    """Return the reading of a series from its text in Redis."""
    micros, _, value = kept.partition(" ")
    time = _EPOCH + timedelta(microseconds=int(micros))
    return NewestReading(time, value[1:] if value[0] == "t" else float(value[1:]))
