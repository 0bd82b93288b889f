"""Applying signals to the devices' rows: under their locks, by the state machine, each transition a StatusChange.

A transition of a gateway is a signal for its children, applied in the same transaction.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import connection, transaction

from devices.services.presence import gateways
from devices.services.presence.state_machine import PresenceState, Signal, Transition, step

# The channel of PostgreSQL's NOTIFY for committed transitions, with the schema's name: the notifier listens to it.
CHANNEL = "gwanje_status"

_COLUMNS = (
    "device_id, status, reason, since, session, session_at, last_seen_at, will_at, other_wills, session_received_at,"
    " gateway_gone_at, gateway_back_at"
)


@dataclass(frozen=True, slots=True)
class Applied:
    """The result of signals: the devices' states after them, and the transitions in order, children of gateways with
    them.
    """

    states: dict[int, PresenceState]
    changes: list[tuple[int, Transition]]


def apply_signals(schema: str, signals: Sequence[tuple[int, Signal]], now: datetime) -> Applied:
    """Apply (device id, signal) in order, in one transaction. Devices without a row are skipped."""
    if not signals:
        return Applied({}, [])
    quoted = connection.ops.quote_name(schema)
    with transaction.atomic(), connection.cursor() as cursor:
        signaled = {device_id for device_id, _ in signals}
        children = gateways.children_of(cursor, quoted, signaled)
        # All in one order: two transactions with a gateway and its children must not wait for each other.
        before = _read(cursor, quoted, sorted(signaled | {child.device_id for child in children}), "FOR UPDATE")
        states = {device_id: state for device_id, state in before.items() if device_id in signaled}
        changes: list[tuple[int, Transition]] = []
        ignored: list[tuple[int, str, str, datetime]] = []

        def apply(device_id: int, signal: Signal) -> None:
            if (state := states.get(device_id)) is None:
                return
            result = step(state, signal, now)
            states[device_id] = result.state
            if result.change is not None:
                changes.append((device_id, result.change))
            if result.ignored:
                ignored.append((device_id, signal.session, result.ignored, signal.at))

        for device_id, signal in signals:
            apply(device_id, signal)
        touched = gateways.children_of_changes(children, changes)
        states |= {child.device_id: before[child.device_id] for child in touched if child.device_id not in states}
        for device_id, signal in gateways.signals_of(schema, touched, states, changes, now):
            apply(device_id, signal)
        gateways.set_deadlines(schema, touched, states, now)
        _save(cursor, quoted, {key: state for key, state in states.items() if state != before[key]})
        _add_changes(cursor, quoted, changes, now)
        _add_ignored(cursor, quoted, ignored, now)
        if changes:
            _mark_flapping(cursor, quoted, sorted({device_id for device_id, _ in changes}), now)
            cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, schema])
    return Applied(states, changes)


def states_of(schema: str, device_ids: Sequence[int]) -> dict[int, PresenceState]:
    """Return the devices' present states by id, without locks."""
    if not device_ids:
        return {}
    with connection.cursor() as cursor:
        return _read(cursor, connection.ops.quote_name(schema), device_ids, "")


def _read(cursor: Any, quoted: str, device_ids: Sequence[int], lock: str) -> dict[int, PresenceState]:
    cursor.execute(
        f"SELECT {_COLUMNS} FROM {quoted}.devices_devicestatus"  # noqa: S608 (the schema's name is quoted)
        f" WHERE device_id = ANY(%s) ORDER BY device_id {lock}",
        [list(device_ids)],
    )
    return {row[0]: _state(row) for row in cursor.fetchall()}


def _state(row: tuple[Any, ...]) -> PresenceState:
    _, status, reason, since, session, session_at, last_seen_at, will_at, wills, *times = row
    others = tuple((other, datetime.fromisoformat(at)) for other, at in _json(wills))
    return PresenceState(status, reason, since, session, session_at, last_seen_at, will_at, others, *times)


def _json(value: Any) -> Any:
    # Django's connection gives JSON as text where no field of its own reads it.
    return json.loads(value) if isinstance(value, str) else value


def _save(cursor: Any, quoted: str, states: dict[int, PresenceState]) -> None:
    if not states:
        return
    rows = [
        (
            device_id,
            state.status,
            state.cause,
            state.since,
            state.session,
            state.session_at,
            state.last_seen_at,
            state.will_at,
            json.dumps([[session, at.astimezone(UTC).isoformat()] for session, at in state.other_wills]),
            state.session_received_at,
            state.gateway_gone_at,
            state.gateway_back_at,
        )
        for device_id, state in states.items()
    ]
    cursor.execute(
        f"UPDATE {quoted}.devices_devicestatus AS s SET status = n.status, reason = n.reason, since = n.since,"  # noqa: S608
        " session = n.session, session_at = n.session_at, last_seen_at = n.last_seen_at, will_at = n.will_at,"
        " other_wills = n.other_wills::jsonb, session_received_at = n.session_received_at,"
        " gateway_gone_at = n.gateway_gone_at, gateway_back_at = n.gateway_back_at"
        " FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::timestamptz[], %s::text[], %s::timestamptz[],"
        " %s::timestamptz[], %s::timestamptz[], %s::text[], %s::timestamptz[], %s::timestamptz[], %s::timestamptz[])"
        f" AS n({_COLUMNS}) WHERE s.device_id = n.device_id",
        [list(column) for column in zip(*rows, strict=True)],
    )


def _add_changes(cursor: Any, quoted: str, changes: list[tuple[int, Transition]], now: datetime) -> None:
    if not changes:
        return
    rows = [(device_id, c.old, c.new, c.cause, c.session, c.evidence_at) for device_id, c in changes]
    cursor.execute(
        f"INSERT INTO {quoted}.devices_statuschange"  # noqa: S608
        " (device_id, from_status, to_status, cause, session, evidence_at, at, quiet)"
        " SELECT n.*, %s, '' FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[],"
        " %s::timestamptz[]) AS n",
        [now, *(list(column) for column in zip(*rows, strict=True))],
    )


def _add_ignored(cursor: Any, quoted: str, ignored: list[tuple[int, str, str, datetime]], now: datetime) -> None:
    if not ignored:
        return
    cursor.execute(
        f"INSERT INTO {quoted}.devices_ignoredsign (device_id, session, why, evidence_at, at)"  # noqa: S608
        " SELECT n.*, %s FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::timestamptz[]) AS n",
        [now, *(list(column) for column in zip(*ignored, strict=True))],
    )


def _mark_flapping(cursor: Any, quoted: str, device_ids: list[int], now: datetime) -> None:
    """Mark devices with enough changes in the tenant's window as flapping, until no change has come for as long."""
    cursor.execute(
        f"""
        WITH rules AS (
            SELECT coalesce(max(flapping_changes), 6) AS changes,
                   coalesce(max(flapping_window_seconds), 600) * interval '1 second' AS quiet
            FROM {quoted}.devices_presencesettings
        )
        UPDATE {quoted}.devices_devicestatus AS s SET flapping_until = %s::timestamptz + rules.quiet
        FROM rules
        WHERE s.device_id = ANY(%s) AND %s::timestamptz - rules.quiet < (
            SELECT c.at FROM {quoted}.devices_statuschange AS c
            WHERE c.device_id = s.device_id ORDER BY c.id DESC OFFSET rules.changes - 1 LIMIT 1
        )
        """,  # noqa: S608 (the schema's name is quoted)
        [now, device_ids, now],
    )
