"""The bound on a component's series for values without a metric.

A device that sends ever new names must not create ever new series: beyond a number, values under new names are
omitted (they are in the message as it was received), and the tenant's audit has an entry.
"""

from collections.abc import Sequence

import psycopg
from django.conf import settings

from telemetry.services.pipeline.results import AcceptedItem

from . import device_events
from .series import SeriesIds

# The bounds by which values are left out: those of one message, and the series of a component.
MESSAGE_LIMIT, SERIES_LIMIT = "message_limit", "series_limit"

_Component = tuple[int, str]  # device id, component's key


def admit(connection: psycopg.Connection, schema: str, series: SeriesIds, items: Sequence[AcceptedItem]) -> None:
    """Add the unmapped values that may be kept to the messages' measurements."""
    waiting = [item for item in items if item.result.unmapped or item.result.cut]
    if waiting:
        series.load(connection, schema, {_component(item) for item in waiting if item.result.unmapped})
        omitted = {_component(item) for item in waiting if _admit(series, item)}
        if unreported := omitted - series.reported:
            series.reported |= unreported
            _report(connection, schema, unreported)


def _admit(series: SeriesIds, item: AcceptedItem) -> bool:
    """Return whether a value had to be omitted."""
    message = item.result
    kept = []
    for value in message.unmapped:
        name = (value.metric, value.unit, value.value_type)
        if series.admit(_component(item), name, settings.INGEST_UNMAPPED_SERIES):
            kept.append(value)
    if message.cut:
        message.omitted = MESSAGE_LIMIT
    elif len(kept) < len(message.unmapped):
        message.omitted = SERIES_LIMIT
    # A new list: the measurements' own may be shared. A message that is stored again after a failure is not counted
    # again.
    message.measurements, message.unmapped, message.cut = message.measurements + kept, [], False
    return bool(message.omitted)


def _component(item: AcceptedItem) -> _Component:
    return item.spec.device_id, item.result.component


def _report(connection: psycopg.Connection, schema: str, components: set[_Component]) -> None:
    limit = settings.INGEST_UNMAPPED_SERIES
    events = [
        (
            device_id,
            f"The component {component} sends more values without a metric than are kept (a component may have {limit} "
            "series, and a message has a maximum of its own): add metrics, or let its type ignore such values.",
        )
        for device_id, component in sorted(components)
    ]
    device_events.add_events(connection, schema, device_events.UNMAPPED_LIMIT, events)
