"""Pages of readings for streams: each reading with its position, and as JSON that all streams share."""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from devices.models import Component
from devices.services.notifications.status_feed import time_text
from telemetry.services.queries.change_items import StoredReading, named_items, select_readings
from telemetry.services.queries.change_positions import ChangePosition
from telemetry.services.queries.changes import changes_page
from telemetry.services.queries.fleet_latest import FleetLatestValue, fleet_latest_values
from telemetry.services.queries.metric_series import SeriesFilter

PAGE_READINGS = 1000
_ID = re.compile(r"([0-9a-f-]{36})?\.([0-9]{1,19})\.([0-9]{1,4})\.([0-9]{0,9})", re.ASCII)


@dataclass(frozen=True, slots=True)
class LiveReading:
    """A reading for streams; `text` is its JSON."""

    place: tuple[float, ...]
    device: UUID
    component: str
    metric: str
    text: str


@dataclass(frozen=True, slots=True)
class LivePage:
    """The readings between two positions; `end` is the id of the second in the format of streams."""

    begin: tuple[float, ...]
    readings: list[LiveReading]
    place: tuple[float, ...]
    end: str
    has_more: bool


@dataclass(frozen=True, slots=True)
class LiveFilter:
    """The readings of a stream; an empty member selects all. `components` are (device, key) of component types."""

    devices: Collection[UUID] = ()
    components: Collection[str] = ()
    metrics: Collection[str] = ()
    types: Collection[str] = ()
    of_types: Collection[tuple[UUID, str]] = ()
    # The UUIDs of the devices that the client can see, as text; None: all.
    visible: frozenset[str] | None = None

    def matches(self, reading: LiveReading | FleetLatestValue) -> bool:
        """Return whether the stream has the reading."""
        return (
            (self.visible is None or str(reading.device) in self.visible)
            and (not self.devices or reading.device in self.devices)
            and (not self.components or reading.component in self.components)
            and (not self.metrics or reading.metric in self.metrics)
            and (not self.types or (reading.device, reading.component) in self.of_types)
        )


def components_of_types(types: Collection[str]) -> set[tuple[UUID, str]]:
    """Return the present components of these types as (device, key); one query, none without types."""
    if not types:
        return set()
    rows = Component.objects.filter(component_type__key__in=types)
    return set(rows.values_list("device__uuid", "key"))


def place_of(position: ChangePosition) -> tuple[float, ...]:
    """Return a position as numbers that can be compared; behind a whole batch is behind all of its items."""
    return (*position.batch, float("inf") if position.item is None else position.item)


def parse_id(text: str) -> list[Any] | None:
    """Return the token of an event's id; None where it is none."""
    found = _ID.fullmatch(text)
    if found is None:
        return None
    name, transaction, part, item = found.groups()
    return [name or "", int(transaction), int(part), int(item) if item else None]


def format_id(token: list[Any]) -> str:
    """Return a token as an event's id."""
    name, transaction, part, item = token
    return f"{name}.{transaction}.{part}.{'' if item is None else item}"


def read_page(after: str) -> LivePage:
    """Return the readings of the current tenant after an event's id, at most 1000. Raises PositionLost."""
    page = changes_page(select_readings(), after=parse_id(after), limit=PAGE_READINGS)
    readings = [_live(place_of(item.position), reading) for item, reading in named_items(page.items)]
    return LivePage(
        place_of(page.begin_position), readings, place_of(page.end_position), format_id(page.end), page.has_more
    )


def newest_id() -> str:
    """Return the id behind the newest reading of the current tenant."""
    return format_id(changes_page(select_readings(), newest=True, limit=1).end)


def latest_page(wanted: LiveFilter, devices: list[int] | None, after: Any) -> tuple[list[str], Any]:
    """Return the next newest values as JSON, at most 1000, and the position behind them; None on the last page.

    `devices` are the ids of the filter's devices, None for all; `after` is the position of the page before, None first.
    """
    selection = SeriesFilter(devices, list(wanted.components) or None, list(wanted.metrics) or None)
    page = fleet_latest_values(selection, after=after, limit=PAGE_READINGS)
    return [_json(value) for value in page.values if wanted.matches(value)], page.end


def _live(place: tuple[float, ...], reading: StoredReading) -> LiveReading:
    return LiveReading(place, reading.device, reading.component, reading.metric, _json(reading))


def _json(reading: StoredReading | FleetLatestValue) -> str:
    data = {
        "device": str(reading.device),
        "component": reading.component,
        "metric": reading.metric,
        "value": reading.value,
        "unit": reading.unit or None,
        "time": time_text(reading.time),
    }
    return json.dumps(data, ensure_ascii=False)
