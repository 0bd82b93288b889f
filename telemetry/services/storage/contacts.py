"""The newest verified message of a device that does not count, refused or late: written with its batch."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

import psycopg

from devices.models import DeviceContact
from telemetry.services.pipeline.results import TenantResult

from .statements import per_schema, run

# The detail of a refusal quotes what the device sent.
_MAX_DETAIL = 1000
_MAX_TOPIC = 500

# In one order, so that two listeners do not wait for each other crosswise.
_UPSERT = per_schema(
    "INSERT INTO {contact} AS c (device_id, received_at, device_time, reason, detail, topic)"
    " SELECT * FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::text[], $5::text[], $6::text[])"
    " AS n(device_id, received_at, device_time, reason, detail, topic) ORDER BY device_id"
    " ON CONFLICT (device_id) DO UPDATE SET received_at = EXCLUDED.received_at, device_time = EXCLUDED.device_time,"
    " reason = EXCLUDED.reason, detail = EXCLUDED.detail, topic = EXCLUDED.topic"
    " WHERE c.received_at <= EXCLUDED.received_at",
    contact="devices_devicecontact",
)


class _Contact(NamedTuple):
    device_id: int
    received_at: datetime
    device_time: datetime | None
    reason: str
    detail: str
    topic: str


def record(connection: psycopg.Connection, result: TenantResult) -> None:
    """Record the newest contact of each device. Sends one statement, or none; also in a pipeline."""
    newest: dict[int, _Contact] = {}
    for contact in (*_late(result), *_refused(result)):
        known = newest.get(contact.device_id)
        if known is None or known.received_at <= contact.received_at:
            newest[contact.device_id] = contact
    if newest:
        run(connection, _UPSERT(result.schema), [list(column) for column in zip(*newest.values(), strict=True)])


def _late(result: TenantResult) -> Iterator[_Contact]:
    # A late birth is activity. A message without a signature is of an old server's record.
    for item in result.stored:
        message = item.result
        if message.late and message.component and message.signature:
            received_at, topic = item.incoming.received_at, item.incoming.topic
            yield _Contact(item.spec.device_id, received_at, message.time, DeviceContact.LATE, "", topic[:_MAX_TOPIC])


def _refused(result: TenantResult) -> Iterator[_Contact]:
    for item in result.quarantined:
        contact = item.result.contact
        if contact is not None and contact.session is None and item.owner is not None:
            detail = item.result.detail.replace("\x00", "\\0")[:_MAX_DETAIL]
            received_at, topic = item.incoming.received_at, item.incoming.topic[:_MAX_TOPIC]
            yield _Contact(item.owner.device_id, received_at, contact.time, item.result.reason, detail, topic)
