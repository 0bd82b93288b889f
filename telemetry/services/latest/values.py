"""The newest value of every series: listeners tell Redis, readers ask Redis and the table, the worker moves it on.

Each tenant has a hash of its own in Redis, moved forward only by a script, so that any number of listeners may write.
What may be missing in it, a reader can see, and then looks at the newest readings themselves, which is right and
somewhat slower:

- Redis was emptied or restored: the tenant's hash does not name the present *generation* as the one that it is
  complete for.
- A listener died before it told Redis: every listener has a heartbeat; one that is late is reason for distrust, and
  ends the generation, as does every listener that starts, and one that Redis was away from.

The worker then makes the tenants' hashes complete again. The table is right for all that is rolled up; beyond that it
is only as new as the last move, which is why it is never read alone.
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
# What is kept for Redis while it is away. More is given up: whoever reads then looks at the readings.
_MAX_BUFFERED = 200_000


class LatestRecorder:
    """A listener's newest values on their way to Redis. Not shared between threads.

    Make it before the first batch is stored; `note` what is committed, `flush` about once a second, `close` at the
    end. Redis away costs nothing but newness.
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
        """A reading was stored: `micros` since 1970. Older ones than the newest change nothing."""
        self.note_all(schema, [(series_id, micros, value)])

    def note_all(self, schema: str, readings: Iterable[tuple[int, int, float | str]], since: int = 0) -> None:
        """Readings (series, time, value) were stored; times are microseconds since `since`, itself since 1970."""
        newest = self._newest.setdefault(schema, {})
        for series_id, time, value in readings:
            reading = time + since, value
            known = newest.get(series_id)
            if known is None or known < reading:
                newest[series_id] = reading

    def doubt(self) -> None:
        """Something may have been stored that will not be noted: readers look at the readings until it is made good."""
        self._failed = True

    def flush(self) -> None:
        """Tell Redis what was noted, in one round trip, and that this listener lives."""
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
        """Tell Redis the rest, and that nothing more will come."""
        self._paused_until = self._beat_at = 0.0
        self.flush()
        if not self._newest:
            try:
                get_redis_connection("default").hdel(scripts.WRITERS, self._name)
            except RedisError:
                logger.warning("Redis is away: the listener is missed there until a worker has looked")

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
            logger.warning("Redis is away (%s): the newest values wait", error)
        self._failed = True
        self._paused_until = clock.monotonic() + _PAUSE_SECONDS
        if sum(map(len, self._newest.values())) > _MAX_BUFFERED:
            self._newest.clear()


def newest_readings(series_ids: Iterable[int]) -> dict[int, NewestReading]:
    """The newest reading of each of the current tenant's series; those without readings are not in the answer.

    Redis and the table, and where they may have missed something or know nothing, the readings themselves.
    """
    series = sorted(set(series_ids))
    if not series:
        return {}
    trusted, told = _read_redis(series)
    return latest_table.find_newest(series, told, trusted=trusted)


def component_reading_times(device_ids: Collection[int]) -> dict[tuple[int, str], datetime]:
    """Return the time of the newest reading by (device id, component key) in the current tenant; two queries.

    Components without readings are left out.
    """
    from telemetry.models import Series

    series = Series.objects.filter(device_id__in=device_ids).values_list("pk", "device_id", "component")
    components = {pk: (device, component) for pk, device, component in series}
    found: dict[tuple[int, str], datetime] = {}
    for pk, newest in newest_readings(components).items():
        key = components[pk]
        found[key] = max(newest.time, found.get(key, newest.time))
    return found


def _read_redis(series: Sequence[int]) -> tuple[bool, dict[int, NewestReading]]:
    """Whether Redis knows of all that was stored, and what it knows."""
    keys = scripts.WRITERS, scripts.GENERATION, values_key(current_schema())
    try:
        answer = get_redis_connection("default").eval(scripts.READ, 3, *keys, orjson.dumps([str(pk) for pk in series]))
    except RedisError as error:
        logger.warning("Redis is away (%s): newest values are looked up in PostgreSQL", error)
        return False, {}
    trusted, values = orjson.loads(answer)
    return trusted, {pk: decode_reading(value) for pk, value in zip(series, values, strict=True) if value}


# --- the worker's part ------------------------------------------------------------------------------------------


def expire_stopped_listeners() -> None:
    """End the generation when a listener's heartbeat stopped; the tenants' hashes are then completed anew."""
    get_redis_connection("default").eval(scripts.EXPIRE_LISTENERS, 2, scripts.WRITERS, scripts.GENERATION)


def incomplete_tenants(schemas: Sequence[str]) -> list[str]:
    """Those of the tenants whose hash is not complete for the present generation."""
    pipeline = get_redis_connection("default").pipeline(transaction=False)
    pipeline.get(scripts.GENERATION)
    for schema in schemas:
        pipeline.hget(values_key(schema), scripts.COMPLETE)
    generation, *completed = pipeline.execute()
    return [schema for schema, known in zip(schemas, completed, strict=True) if known is None or known != generation]


def refill() -> int:
    """Tell Redis the newest value of every series of the current tenant; returns how many series there are."""
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
    """Move the current tenant's table forward by what changed in Redis; returns how many series changed.

    The names of what changed are put aside first and removed after the commit: a run that is killed is made good by
    the next.
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
    """Remove what Redis knows of the tenant."""
    get_redis_connection("default").delete(values_key(schema), changed_key(schema), moving_key(schema))


def forget_new_tenant() -> None:
    """A tenant's schema was made: what Redis has under its name is another's, of before."""
    try:
        forget_tenant(current_schema())
    except RedisError as error:
        logger.warning("Redis is away (%s): newest values of an earlier tenant of this name may show", error)


def forget_others(schemas: Iterable[str]) -> int:
    """Remove what Redis knows of tenants that are not among these; returns how many keys."""
    redis = get_redis_connection("default")
    wanted = {key for schema in schemas for key in (values_key(schema), changed_key(schema), moving_key(schema))}
    gone = [name for raw in redis.scan_iter(f"{scripts.PREFIX}*", count=1000) if (name := raw.decode()) not in wanted]
    if gone:
        redis.delete(*gone)
    return len(gone)


def forget_before(time: datetime) -> None:
    """Remove the current tenant's values that are older: retention has dropped their readings."""
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
    """The tenant's hash: series id → when, and what."""
    return f"{scripts.PREFIX}{schema}"


def changed_key(schema: str) -> str:
    """The set of series ids that changed since they were moved to the table."""
    return f"{scripts.PREFIX}{schema}:changed"


def moving_key(schema: str) -> str:
    """Those of them that are being moved."""
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
    """A value as Redis keeps it: n and a number, or t and a text."""
    return f"t{value}" if isinstance(value, str) else f"n{float(value)!r}"


def decode_reading(kept: str) -> NewestReading:
    """What Redis keeps of a series."""
    micros, _, value = kept.partition(" ")
    time = _EPOCH + timedelta(microseconds=int(micros))
    return NewestReading(time, value[1:] if value[0] == "t" else float(value[1:]))
