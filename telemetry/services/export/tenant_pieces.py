"""The contents of the archive's files in chunks; the tenant's schema is left before a chunk is sent."""

import base64
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
from django.db.models import BinaryField, JSONField
from django_tenants.utils import schema_context
from psycopg import sql

from devices.models import Device
from telemetry.models import Series
from telemetry.services.queries.readings import ReadingPosition, readings
from tenants.infrastructure.database import cursor_for_many
from tenants.models import Tenant
from tenants.services.limits import limits_of

from . import readings as export
from .tenant_tables import ExportedTable

# Later than whatever was measured.
_NEVER = datetime(9999, 1, 1, tzinfo=UTC)
_SERIES_AT_ONCE = 500


def table_chunks(schema: str, table: ExportedTable) -> Iterator[tuple[bytes, int]]:
    """Yield the table's rows as NDJSON chunks, each with its number of rows."""
    after: Sequence[Any] | None = None
    while True:
        with schema_context(schema):
            rows = _page(table, after)
        if rows:
            yield _as_ndjson(table, rows), len(rows)
        if len(rows) < table.rows:
            return
        columns = [one.column for one in table.columns]
        after = [rows[-1][columns.index(name)] for name in table.key]


def reading_chunks(schema: str) -> Iterator[tuple[bytes, int]]:
    """Yield all readings, packed or not, as NDJSON chunks: series after series, each in order of time."""
    for one in _series(schema):
        after: ReadingPosition | None = None
        while True:
            with schema_context(schema):
                rows = readings([one.series], stop=_NEVER, after=after, limit=export.READINGS_PER_CHUNK)
            if rows:
                yield export.as_ndjson(one, rows), len(rows)
            if len(rows) < export.READINGS_PER_CHUNK:
                break
            after = ReadingPosition(rows[-1].time, rows[-1].series, rows[-1].key)


def tenant_document(tenant: Tenant) -> Iterator[tuple[bytes, int]]:
    """Yield the tenant itself as one JSON object: names, members, limits, preregistered devices."""
    with schema_context("public"):
        found = Tenant.objects.select_related("limits__plan").get(pk=tenant.pk)
        document = {
            "slug": found.slug,
            "name": found.name,
            "state": found.state,
            "created_at": found.created_at,
            "host_names": [one.domain for one in found.domains.order_by("domain")],
            "topic_aliases": [one.address for one in found.aliases.order_by("address")],
            "members": _members(found),
            "plan": str(found.limits.plan) if getattr(found, "limits", None) and found.limits.plan else None,
            "limits": {
                str(name): {"value": limit.value, "burst": limit.burst, "from": limit.source}
                for name, limit in limits_of(found).items()
            },
            "boards": list(
                found.preregistered_devices.order_by("serial").values(
                    "serial", "device_uuid", "claimed_at", "fetched_at"
                )
            ),
        }
    yield orjson.dumps(document, option=orjson.OPT_UTC_Z | orjson.OPT_INDENT_2, default=str) + b"\n", 1


def _members(tenant: Tenant) -> list[dict[str, Any]]:
    rows = tenant.memberships.select_related("user").order_by("user__username")
    return [{"username": row.user.username, "name": row.user.get_full_name(), "role": row.role} for row in rows]


def _series(schema: str) -> Iterator[export.ExportedSeries]:
    last = 0
    while True:
        with schema_context(schema):
            page = list(Series.objects.filter(pk__gt=last).order_by("pk")[:_SERIES_AT_ONCE])
            owners = {one.device_id for one in page}
            uuids = dict(Device.objects.filter(pk__in=owners).values_list("pk", "uuid"))
        if not page:
            return
        yield from (export.ExportedSeries(one, str(uuids.get(one.device_id, ""))) for one in page)
        last = page[-1].pk


def _page(table: ExportedTable, after: Sequence[Any] | None) -> list[tuple[Any, ...]]:
    """The next rows after a key."""
    names = sql.SQL(", ").join(_selected(one) for one in table.columns)
    key = sql.SQL(", ").join(map(sql.Identifier, table.key))
    where: sql.Composable = sql.SQL("")
    if after is not None:
        where = sql.SQL("WHERE ({}) > ({})").format(key, sql.SQL(", ").join([sql.Placeholder()] * len(after)))
    query = sql.SQL("SELECT {} FROM {} {} ORDER BY {} LIMIT {}").format(
        names, sql.Identifier(table.model._meta.db_table), where, key, sql.Literal(table.rows)
    )
    with cursor_for_many() as cursor:
        cursor.execute(query, list(after or ()))
        return list(cursor.fetchall())


def _selected(one: Any) -> sql.Composable:
    """A column as it is read: what no driver has a type for comes as text."""
    name = sql.Identifier(one.column)
    return name if one.get_internal_type() != "Int8MultiRangeField" else sql.SQL("{}::text").format(name)


def _as_ndjson(table: ExportedTable, rows: Sequence[tuple[Any, ...]]) -> bytes:
    written = [(str(one.column), _writer(one)) for one in table.columns]
    return b"".join(
        orjson.dumps(
            dict(_cell(name, write(value)) for (name, write), value in zip(written, row, strict=True)),
            option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE,
            default=str,
        )
        for row in rows
    )


class _Base64Text(str):
    """Base64 text of bytes that are not UTF-8."""


def _cell(name: str, value: Any) -> tuple[str, Any]:
    return (f"{name}_base64", str(value)) if isinstance(value, _Base64Text) else (name, value)


def _writer(one: Any) -> Callable[[Any], Any]:
    if isinstance(one, BinaryField):
        return _payload
    return _parsed if isinstance(one, JSONField) else lambda value: value


def _payload(value: Any) -> Any:
    """Bytes as text where they are text, else as base64 under another name."""
    if value is None:
        return None
    content = bytes(value)
    try:
        return content.decode()
    except UnicodeDecodeError:
        return _Base64Text(base64.b64encode(content).decode())


def _parsed(value: Any) -> Any:
    return orjson.loads(value) if isinstance(value, str | bytes) else value
