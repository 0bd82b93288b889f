"""Queries of latest values, readings, messages and quarantined messages.

Every function queries the current tenant's schema and returns a list, never a queryset, so that no query runs after
the schema is left.
"""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db.models import BinaryField, Func, IntegerField, QuerySet

from devices.models import Device, Metric
from telemetry.models import Message, Quarantined, Series
from telemetry.services.latest.values import newest_readings
from telemetry.services.rollups.packing import UNPACKED, UNPACKED_TIME
from tenants.infrastructure.database import cursor_for_many

ReadingValue = float | bool | str
Text = Metric.ValueType.TEXT
Boolean = Metric.ValueType.BOOLEAN


@dataclass(frozen=True, slots=True)
class LatestValue:
    """The newest value of a component's metric."""

    component: str
    metric: str
    value: ReadingValue
    unit: str  # the unit's symbol when it was measured; "" for none
    value_type: str
    time: datetime.datetime


@dataclass(frozen=True, slots=True)
class ReadingRow:
    """One value of a series. `key` is its place among the values of one instant: a number, or a text's MD5."""

    time: datetime.datetime
    series: int
    key: float | str
    value: ReadingValue
    unit: str


@dataclass(frozen=True, slots=True)
class ReadingPosition:
    """Where a page of readings ended: the next begins after it, in the order of (time, series, key)."""

    time: datetime.datetime
    series: int
    key: float | str


# The most of a quarantined message's payload that is read.
PAYLOAD_BYTES = 64 * 1024

# A page is read from the partitions of so much time first: PostgreSQL plans over all in the range, and most pages end
# within the first.
_WINDOW = datetime.timedelta(days=31)
_NO_WINDOW_FROM = datetime.datetime.max.replace(tzinfo=datetime.UTC) - 2 * _WINDOW
# The predicate on text is that of the partial indexes: without it they are not used.
ORDERED_TEXTS = """(SELECT time, {series} AS series, NULL::float8 AS value, text, md5(text) AS hash
FROM telemetry_reading WHERE series_id = {series} AND text IS NOT NULL {bounds}
ORDER BY time, md5(text) LIMIT %(limit)s)"""


_SERIES_COLUMNS = ("pk", "device_id", "component", "metric", "unit", "value_type")


def latest_values(device: Device) -> list[LatestValue]:
    """Return the newest value of each metric of the device, by component and metric; two queries.

    Where a metric's unit was changed, the newest over its units. Of two values of one instant the greater.
    """
    return latest_values_of([device.pk]).get(device.pk, [])


def latest_values_of(device_ids: Sequence[int]) -> dict[int, list[LatestValue]]:
    """Return the newest values by device id; two queries. Devices without readings are left out."""
    rows = Series.objects.filter(device_id__in=list(device_ids)).order_by()
    series = {pk: rest for pk, *rest in rows.values_list(*_SERIES_COLUMNS)}
    newest = newest_readings(series)
    by_metric: dict[tuple[int, str, str], int] = {}
    for pk in sorted(newest, key=lambda pk: (newest[pk].time, pk)):
        device, component, metric, *_ = series[pk]
        by_metric[device, component, metric] = pk
    found: dict[int, list[LatestValue]] = {}
    for (device, component, metric), pk in sorted(by_metric.items()):
        *_, unit, kind = series[pk]
        value = newest[pk].value
        read = reading_value(None, value, kind) if isinstance(value, str) else reading_value(value, None, kind)
        latest = LatestValue(component, metric, read, unit, kind, newest[pk].time)
        found.setdefault(device, []).append(latest)
    return found


def series_of(device: Device, component: str, metric: str) -> list[Series]:
    """Return the series of a component's metric: one for each unit and value type that it has had."""
    return list(Series.objects.filter(device=device, component=component, metric=metric).order_by("id"))


def readings(
    series: Sequence[Series],
    *,
    start: datetime.datetime | None = None,
    stop: datetime.datetime | None = None,
    after: ReadingPosition | None = None,
    limit: int,
) -> list[ReadingRow]:
    """Return at most `limit` readings of the series with start ≤ time < stop, after a position, oldest first.

    A keyset: readings that arrive between two calls are neither repeated nor do they shift the others.
    """
    if not series:
        return []
    first, edge = after.time if after is not None else start, None
    if first is not None and first < _NO_WINDOW_FROM:
        edge = first + _WINDOW
    if edge is None or (stop is not None and stop <= edge):
        return _read(series, start, stop, after, limit)
    rows = _read(series, start, edge, after, limit)
    return rows if len(rows) == limit else rows + _read(series, edge, stop, None, limit - len(rows))


def _read(
    series: Sequence[Series],
    start: datetime.datetime | None,
    stop: datetime.datetime | None,
    after: ReadingPosition | None,
    limit: int,
) -> list[ReadingRow]:
    by_id = {one.pk: one for one in series}
    sql = " UNION ALL ".join(_series_sql(one, start, stop, after) for one in series)
    # Distinct: what came again after its day was packed is in two places.
    order = "time, series, value, hash"
    page = f"SELECT DISTINCT ON ({order}) * FROM ({sql}) AS page ORDER BY {order} LIMIT %(limit)s"  # noqa: S608 (ids only)
    with cursor_for_many() as cursor:
        cursor.execute(page, {"start": start, "stop": stop, "limit": limit} | _position_parameters(after))
        rows = cursor.fetchall()
    return [reading_row(time, by_id[pk], value, text, hash_) for time, pk, value, text, hash_ in rows]


def messages(
    device: Device,
    *,
    start: datetime.datetime | None = None,
    stop: datetime.datetime | None = None,
    after: tuple[datetime.datetime, UUID] | None = None,
    limit: int,
) -> list[Message]:
    """Return at most `limit` of the device's messages with start ≤ device time < stop, newest first."""
    rows = _in_range(Message.objects.filter(device=device), "time", start, stop)
    return _page(rows, ("time", "fingerprint"), after, limit)


def quarantined(
    *,
    device: Device | None = None,
    devices: QuerySet[Device] | None = None,
    reason: str = "",
    topic: str = "",
    start: datetime.datetime | None = None,
    stop: datetime.datetime | None = None,
    after: tuple[datetime.datetime, int] | None = None,
    limit: int,
    payload_bytes: int = PAYLOAD_BYTES,
) -> list[Quarantined]:
    """Return at most `limit` refused messages, last received first, with start ≤ last received < stop.

    Of one device, or of several; by default of all, and of none.

    A payload can be as large as the broker allows, so only the first `payload_bytes` are read, as `payload_head`;
    `payload_size` is its size in bytes. `payload` itself is deferred.
    """
    rows = quarantined_rows(payload_bytes)
    if device is not None:
        rows = rows.filter(device=device)
    if devices is not None:
        rows = rows.filter(device__in=devices.order_by().values("pk"))
    if reason:
        rows = rows.filter(reason=reason)
    if topic:
        rows = rows.filter(topic__icontains=topic)
    return _page(_in_range(rows, "last_received_at", start, stop), ("last_received_at", "id"), after, limit)


def quarantined_rows(payload_bytes: int = PAYLOAD_BYTES) -> QuerySet[Quarantined]:
    """Return the quarantine with `payload_head` and `payload_size` instead of `payload`."""
    head = Func("payload", 1, payload_bytes, function="substring", output_field=BinaryField())
    size = Func("payload", function="octet_length", output_field=IntegerField())
    rows = Quarantined.objects.select_related("device").defer("payload")
    return rows.annotate(payload_head=head, payload_size=size)


def _series_sql(
    one: Series, start: datetime.datetime | None, stop: datetime.datetime | None, after: ReadingPosition | None
) -> str:
    """The SQL of one series' part of a page; its id is the only thing in it that is not a parameter."""
    is_text = one.value_type == Text
    key = "md5(text)" if is_text else "value"
    bounds = ["AND time >= %(start)s"] * (start is not None) + ["AND time < %(stop)s"] * (stop is not None)
    if after is not None:
        bounds.append(_after_condition(one.pk, key, after))
    if is_text:
        return ORDERED_TEXTS.format(series=int(one.pk), bounds=" ".join(bounds))
    first = "%(after_time)s" if after is not None else "%(start)s" if start is not None else "'-infinity'"
    last = "%(stop)s" if stop is not None else "'infinity'"
    rows = ordered_numbers_sql(str(int(one.pk)), " ".join(bounds), first, last, "%(limit)s")
    return f"SELECT time, {int(one.pk)} AS series, value, NULL::text AS text, NULL::text AS hash FROM {rows} AS n"  # noqa: S608 (ids only)


def ordered_numbers_sql(series: str, bounds: str, start: str, stop: str, limit: str) -> str:
    """SQL of the first `limit` numbers of one series in order of (time, value), for pages: `(time, value)`.

    `series` is SQL of its id, `bounds` conditions on `time` and `value` (with their AND); before `start` and from
    `stop` on they let nothing through. Only days that the page needs are unpacked; what is in both places comes
    twice.
    """
    return f"""(
        (SELECT time, value FROM telemetry_reading
         WHERE series_id = {series} AND text IS NULL {bounds} ORDER BY time, value LIMIT {limit})
        UNION ALL
        (SELECT time, value FROM (
            SELECT {UNPACKED_TIME} AS time, u.value FROM (
                SELECT day, sum(count) OVER (ORDER BY day ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
                    - first_value(count) OVER (ORDER BY day) AS before
                FROM telemetry_packedday
                WHERE series_id = {series} AND day > {start}::timestamptz - interval '24 hours' AND day < {stop}
            ) d JOIN telemetry_packedday p ON p.series_id = {series} AND p.day = d.day
            CROSS JOIN LATERAL {UNPACKED} WHERE d.before IS NULL OR d.before < {limit}
        ) packed WHERE true {bounds} ORDER BY time, value LIMIT {limit})
    )"""  # noqa: S608 (the caller's own SQL)


def _after_condition(series: int, key: str, after: ReadingPosition) -> str:
    """What of the series comes after the position, which may be in another series."""
    if series < after.series:
        return "AND time > %(after_time)s"
    if series > after.series:
        return "AND time >= %(after_time)s"
    # The first condition is implied by the second; PostgreSQL chooses the partitions by it.
    return f"AND time >= %(after_time)s AND (time, {key}) > (%(after_time)s, %(after_key)s)"


def _position_parameters(after: ReadingPosition | None) -> dict[str, Any]:
    return {} if after is None else {"after_time": after.time, "after_key": after.key}


def reading_row(
    time: datetime.datetime, one: Series, value: float | None, text: str | None, hash_: str | None
) -> ReadingRow:
    key = hash_ if hash_ is not None else float(value or 0.0)
    return ReadingRow(time, one.pk, key, reading_value(value, text, one.value_type), one.unit)


def reading_value(value: float | None, text: str | None, kind: str) -> ReadingValue:
    if text is not None:
        return text
    return bool(value) if kind == Boolean else float(value or 0.0)


def _in_range(
    rows: QuerySet[Any], field: str, start: datetime.datetime | None, stop: datetime.datetime | None
) -> QuerySet[Any]:
    bounds: Mapping[str, datetime.datetime | None] = {f"{field}__gte": start, f"{field}__lt": stop}
    return rows.filter(**{name: value for name, value in bounds.items() if value is not None})


def _page(rows: QuerySet[Any], order: tuple[str, str], after: tuple[Any, Any] | None, limit: int) -> list[Any]:
    """The rows after a position in descending order of two fields, of which the first is indexed."""
    if after is not None:
        first, second = order
        rows = rows.filter(**{f"{first}__lte": after[0]}).exclude(**{first: after[0], f"{second}__gte": after[1]})
    descending: Iterable[str] = (f"-{name}" for name in order)
    return list(rows.order_by(*descending)[:limit])
