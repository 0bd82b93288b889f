"""How many series a component may have for values that no metric is for.

A device that sends ever new names must not make ever new series: from a number on, values under names that are
new are left out (they are in the message as it was received), and the tenant's audit says so.
"""

from collections.abc import Sequence

import psycopg
from django.conf import settings

from telemetry.services.pipeline.results import AcceptedItem

from . import device_events
from .series import SeriesIds

_Component = tuple[int, str]  # device id, component's key


def admit(connection: psycopg.Connection, schema: str, series: SeriesIds, items: Sequence[AcceptedItem]) -> None:
    """Add to the messages' measurements those of their unmapped values that may be kept."""
    waiting = [item for item in items if item.verdict.unmapped or item.verdict.cut]
    if waiting:
        series.load(connection, schema, {_component(item) for item in waiting if item.verdict.unmapped})
        left_out = {_component(item) for item in waiting if _admit(series, item)}
        if unknown := left_out - series.told:
            series.told |= unknown
            _tell(connection, schema, unknown)


def _admit(series: SeriesIds, item: AcceptedItem) -> bool:
    """Whether something had to be left out."""
    message = item.verdict
    kept = []
    for value in message.unmapped:
        name = (value.metric, value.unit, value.value_type)
        if series.is_known_or_fits(_component(item), name, settings.INGEST_UNMAPPED_SERIES):
            kept.append(value)
    is_cut = message.cut or len(kept) < len(message.unmapped)
    # A new list: the measurements' own may be shared. What is stored again after a failure is not counted again.
    message.measurements, message.unmapped, message.cut = message.measurements + kept, [], False
    return is_cut


def _component(item: AcceptedItem) -> _Component:
    return item.spec.device_id, item.verdict.component


def _tell(connection: psycopg.Connection, schema: str, components: set[_Component]) -> None:
    most = settings.INGEST_UNMAPPED_SERIES
    found = [
        (
            device_id,
            f"The component {component} sends more values without a metric than are kept (up to {most} series for a "
            "component, and what one message may hold): add metrics, or let its type ignore such values.",
        )
        for device_id, component in sorted(components)
    ]
    device_events.note(connection, schema, device_events.UNMAPPED_LIMIT, found)
