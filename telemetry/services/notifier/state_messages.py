"""The state messages of devices for apps: one flat JSON object, with the latest values by metric name."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from devices.models import Component
from devices.services.notifications.outbox import StateUpdate
from devices.services.notifications.status_feed import time_text
from devices.services.presence import activity
from telemetry.services.queries.readings import LatestValue, latest_values_of

_OWN_NAMES = ("device_status", "status_reason", "last_seen_at", "units", "flapping")


def state_payloads(states: Sequence[StateUpdate]) -> list[bytes]:
    """Return the payloads of these states of the current tenant's devices, in order; three queries for all."""
    ids = sorted({state.device_id for state in states})
    latest, attached = latest_values_of(ids), _attached(ids)
    seen = activity.last_seen({state.uuid for state in states})
    payloads = []
    for state in states:
        values = _attached_values(latest.get(state.device_id, ()), attached.get(state.device_id, []))
        message = flat_state(state, _last_seen(state, seen.get(state.uuid)), values)
        payloads.append(json.dumps(message, ensure_ascii=False).encode())
    return payloads


def flat_state(state: StateUpdate, last_seen_at: datetime | None, values: Sequence[LatestValue]) -> dict[str, Any]:
    """Return the message; `values` are those of the attached components, in the order of attachment.

    The first component with a metric has its bare name. Where several have it, or where the bare name is one of
    the message's own, each is there as `component.metric`.
    """
    names = [value.metric for value in values]
    named: dict[str, LatestValue] = {}
    for value in values:
        if value.metric not in _OWN_NAMES:
            named.setdefault(value.metric, value)
    for value in values:
        if names.count(value.metric) > 1 or value.metric in _OWN_NAMES:
            named.setdefault(f"{value.component}.{value.metric}", value)
    return {
        "device_status": state.status,
        "status_reason": state.cause,
        "last_seen_at": time_text(last_seen_at) if last_seen_at else None,
        **({"flapping": True} if state.flapping else {}),
        **{name: value.value for name, value in named.items()},
        "units": {name: value.unit for name, value in named.items() if value.unit},
    }


def _attached(device_ids: Sequence[int]) -> dict[int, list[str]]:
    """Return the keys of the attached components by device, oldest first."""
    rows = Component.objects.filter(device__in=device_ids, attached=True).order_by("id")
    attached: dict[int, list[str]] = {}
    for device, key in rows.values_list("device_id", "key"):
        attached.setdefault(device, []).append(key)
    return attached


def _attached_values(values: Iterable[LatestValue], attached: list[str]) -> list[LatestValue]:
    present = [value for value in values if value.component in attached]
    return sorted(present, key=lambda value: attached.index(value.component))


def _last_seen(state: StateUpdate, live: float | None) -> datetime | None:
    """Return the time of the last activity: from Redis if present, else of the last transition."""
    times = [] if live is None else [datetime.fromtimestamp(live, UTC)]
    return max([*times, *([state.recorded_at] if state.recorded_at else [])], default=None)
