"""The items of the changes with their names: stored readings, stored messages, and quarantined messages."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from devices.models import Device
from telemetry.models import Message, Quarantined, Series

from .changes import ChangedItem, ChangeKind, ChangeSelection
from .readings import ReadingValue, quarantined_rows, reading_value

_SERIES_CONDITIONS = {
    "devices": "s.device_id = ANY(%(devices)s)",
    "component": "s.component = %(component)s",
    "metric": "s.metric = %(metric)s",
    "hardware_model": "d.hardware_model_id = %(hardware_model)s",
}


@dataclass(frozen=True, slots=True)
class StoredReading:
    """A reading, and when it was stored."""

    device: UUID
    component: str
    metric: str
    value: ReadingValue
    unit: str
    time: datetime
    stored_at: datetime


def select_readings(
    *,
    devices: Sequence[int] | None = None,
    component: str | None = None,
    metric: str | None = None,
    hardware_model: int | None = None,
) -> ChangeSelection:
    """Return the selection of readings of the devices, component, metric and hardware model; None: of all."""
    wanted = {"devices": devices, "component": component, "metric": metric, "hardware_model": hardware_model}
    given = {name: value for name, value in wanted.items() if value is not None}
    if not given:
        return ChangeSelection(ChangeKind.READINGS)
    conditions = " AND ".join(_SERIES_CONDITIONS[name] for name in given)
    series = f"SELECT s.id FROM telemetry_series s JOIN devices_device d ON d.id = s.device_id WHERE {conditions}"  # noqa: S608
    return ChangeSelection(ChangeKind.READINGS, f"u.series_id IN ({series})", given)


def select_messages(devices: Sequence[int] | None = None) -> ChangeSelection:
    """Return the selection of messages of the devices; None: of all."""
    if devices is None:
        return ChangeSelection(ChangeKind.MESSAGES)
    return ChangeSelection(ChangeKind.MESSAGES, "u.device_id = ANY(%(devices)s)", {"devices": devices})


def named_items(items: Sequence[ChangedItem]) -> list[tuple[ChangedItem, StoredReading]]:
    """Return the items, each with its reading and the names of its series, in their order; one query."""
    wanted = {item.columns[0] for item in items}
    columns = ("pk", "device__uuid", "component", "metric", "unit", "value_type")
    series = {pk: names for pk, *names in Series.objects.filter(pk__in=wanted).values_list(*columns)}
    return [(item, _named(item, *series[item.columns[0]])) for item in items if item.columns[0] in series]


def _named(item: ChangedItem, device: UUID, component: str, metric: str, unit: str, kind: str) -> StoredReading:
    _series, time, number, text = item.columns
    return StoredReading(device, component, metric, reading_value(number, text, kind), unit, time, item.stored_at)


def messages_of(items: Sequence[ChangedItem]) -> list[Message]:
    """Return the messages with their devices and `stored_at`, in their order; without those that retention has removed.

    Two queries.
    """
    keys = [item.columns for item in items]
    found = {(row.device_id, row.time, row.fingerprint): row for row in _messages(keys)}
    devices = Device.objects.in_bulk({device for device, _time, _fingerprint in keys})
    answer = []
    for item in items:
        row = found.get(item.columns)
        if row is not None:
            row.device = devices[row.device_id]
            row.stored_at = item.stored_at  # type: ignore[attr-defined]  # for the serializer
            answer.append(row)
    return answer


def _messages(keys: Sequence[tuple[Any, ...]]) -> Iterable[Message]:
    if not keys:
        return []
    times = [time for _device, time, _fingerprint in keys]
    # The range of times leaves out partitions.
    return Message.objects.filter(pk__in=keys, time__range=(min(times), max(times)))


@dataclass(frozen=True, slots=True)
class QuarantineChange:
    """A message of the quarantine as it is now, None where it was removed, and when it changed."""

    id: int
    message: Quarantined | None
    changed_at: datetime

    @property
    def removed(self) -> bool:
        """Whether the message is not in the quarantine any more."""
        return self.message is None


def quarantined_of(items: Sequence[ChangedItem], devices: Sequence[int] | None = None) -> list[QuarantineChange]:
    """Return the changes with their messages, in their order; one query.

    With `devices` without the messages of other devices, and those of none.
    """
    ids = {item.columns[0] for item in items}
    rows = {row.pk: row for row in quarantined_rows().filter(pk__in=ids)}
    changes = [QuarantineChange(item.columns[0], rows.get(item.columns[0]), item.stored_at) for item in items]
    if devices is None:
        return changes
    selected = set(devices)
    return [change for change in changes if change.message is None or change.message.device_id in selected]
