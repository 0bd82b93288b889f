"""Messages with a list of entries, each with its own time and values, and messages with their time at another path.

All entries of a message are accepted, or none. Pure.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import orjson

from devices.domain import entry_lists, paths
from devices.domain.entry_lists import EntryList
from devices.domain.specs import ComponentSpec

from . import contract, normalization
from .normalization import NormalizedValues
from .results import Measurement, Refusal, RefusedValue, TimedMeasurement, quote_json
from .times import read_time

MAX_ENTRIES = 1000
# Refused values of a metric that are named in a detail.
_NAMED = 3
# A SenML time below this is relative (RFC 8428, 4.5.3).
_ABSOLUTE_FROM = 2**28
_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)


class TimedValues(NamedTuple):
    """The values of a message, its time, and whether this is late; `is_timed`: each value has a time of its own."""

    time: datetime
    is_late: bool
    values: NormalizedValues
    is_timed: bool


class _Entry(NamedTuple):
    number: int  # from 1, for people
    time: datetime | None  # None: that of the message
    message: dict[str, Any]


def normalize(
    message: dict[str, Any],
    component: ComponentSpec,
    source: bytes,
    received_at: datetime,
    clock: contract.ClockTolerance,
) -> TimedValues:
    """Return the values of a message whose type has an `entries`. Raises Refusal, which names the entry.

    The message's time is its timestamp, or the time at the type's path; without either, the newest of the entries.
    """
    layout = component.entries
    assert layout is not None  # noqa: S101 (for the type checker)
    own = _own_time(message, layout, received_at, clock)
    listed = paths.find(message, layout.path) if layout.path else None
    if listed is None or listed is paths.MISSING:
        if own is None:
            own = contract.check_time(message, received_at, clock)  # refuses it
        return TimedValues(*own, normalization.normalize(message, component, source), is_timed=False)
    entries = list(_entries(listed, layout, own[0] if own else None))
    times = [entry.time for entry in entries if entry.time is not None]
    if own is None:
        if not times:
            own = contract.check_time(message, received_at, clock)
        else:
            own = contract.check_moment(max(times), received_at, clock)
    found = _Collected(own[0])
    try:
        found.add(None, normalization.normalize(message, component, source))
    except Refusal as refusal:
        if not refusal.values:
            raise
        found.refuse(refusal.values)
    for entry in entries:
        try:
            if entry.time is not None:
                contract.check_moment(entry.time, received_at, clock)
            found.add(entry.time, normalization.normalize(entry.message, component), f"Entry {entry.number}: ")
        except Refusal as refusal:
            if not refusal.values:
                raise refusal.at(f"Entry {entry.number}") from refusal
            found.refuse(refusal.values, f"Entry {entry.number}: ")
    return TimedValues(*own, found.values(), is_timed=True)


def sample(message: dict[str, Any], layout: EntryList | None) -> dict[str, Any]:
    """Return the message with the values of its entries at its top, the first of a name; to derive metrics from.

    Raises Refusal for an invalid list.
    """
    listed = paths.find(message, layout.path) if layout and layout.path else None
    if layout is None or listed is None or listed is paths.MISSING:
        return message
    merged: dict[str, Any] = {}
    for entry in _entries(listed, layout, _ANY_TIME):
        merged = entry.message | merged
    return message | merged


class _Collected:
    """Values with their times, each reading once: as in the tables, one of a series, a time and a value."""

    def __init__(self, time: datetime) -> None:
        self.measurements: list[Measurement] = []
        self.unmapped: list[Measurement] = []
        self.cut = False
        self._time = time
        self._refused: dict[str, list[RefusedValue]] = {}
        self._seen: set[TimedMeasurement] = set()

    def add(self, time: datetime | None, values: NormalizedValues, place: str = "") -> None:
        """Add the values of an entry; `place` begins the details of its refused values."""
        moment = time or self._time
        self.measurements.extend(self._new(values.measurements, moment))
        self.unmapped.extend(self._new(values.unmapped, moment))
        self.cut = self.cut or values.cut
        self.refuse(values.refused, place)

    def refuse(self, values: Iterable[RefusedValue], place: str = "") -> None:
        """Add the refused values of an entry."""
        for value in values:
            self._refused.setdefault(value.metric, []).append(value._replace(detail=place + value.detail))

    def values(self) -> NormalizedValues:
        """Return all values, and one refusal for each metric. Raises Refusal where no value is valid."""
        refused = tuple(_joined(values) for values in self._refused.values())
        if refused and not self.measurements and not self.unmapped:
            raise Refusal(refused[0].reason, refused[0].detail)
        return NormalizedValues(self.measurements, self.unmapped, self.cut, refused)

    def _new(self, values: Iterable[Measurement], time: datetime) -> Iterator[Any]:
        for value in values:
            timed = TimedMeasurement(*value, time)
            if timed not in self._seen:
                self._seen.add(timed)
                yield timed


def _joined(values: list[RefusedValue]) -> RefusedValue:
    """Return the refused values of a metric as one, with the details of the first."""
    named = " ".join(value.detail for value in values[:_NAMED])
    more = f" And {len(values) - _NAMED} more." if len(values) > _NAMED else ""
    return values[0]._replace(detail=named + more)


def _own_time(
    message: dict[str, Any], layout: EntryList, received_at: datetime, clock: contract.ClockTolerance
) -> tuple[datetime, bool] | None:
    if message.get("timestamp") is not None:
        return contract.check_time(message, received_at, clock)
    if layout.path or not layout.time_path:
        return None
    value = paths.find(message, layout.time_path)
    if value is None or value is paths.MISSING:
        name = paths.format_path(layout.time_path)
        raise Refusal("malformed", f"The message must have a time at {name}, or a timestamp.")
    return contract.check_moment(read_time(value, layout.time_format, layout.zone), received_at, clock)


def _entries(listed: Any, layout: EntryList, own: datetime | None) -> Iterator[_Entry]:
    """Yield the entries with their times. Raises Refusal (`malformed`)."""
    objects = _objects(listed, layout)
    if len(objects) > MAX_ENTRIES:
        place = paths.format_path(layout.path)
        raise Refusal("malformed", f"{place} must have at most {MAX_ENTRIES} entries, not {len(objects)}.")
    if layout.form == entry_lists.SENML:
        yield from _records(objects, own)
        return
    for number, one in enumerate(objects, 1):
        if not layout.time_path:
            yield _Entry(number, None, one)
            continue
        value = paths.find(one, layout.time_path)
        if value is None or value is paths.MISSING:
            name = paths.format_path(layout.time_path)
            raise Refusal("malformed", f"Entry {number}: it must have a time at {name}.")
        try:
            yield _Entry(number, read_time(value, layout.time_format, layout.zone), one)
        except Refusal as refusal:
            raise refusal.at(f"Entry {number}") from refusal


def _objects(listed: Any, layout: EntryList) -> list[dict[str, Any]]:
    """Return the objects of an array, of JSON lines in a text, or the one object that is there."""
    place = paths.format_path(layout.path)
    if isinstance(listed, str):
        lines = [line for line in listed.splitlines() if line.strip()]
        listed = [_line(number, line, place) for number, line in enumerate(lines[: MAX_ENTRIES + 1], 1)]
    elif isinstance(listed, dict):
        listed = [listed]
    elif not isinstance(listed, list):
        raise Refusal(
            "malformed", f"{place} must be an array of objects, or JSON lines in a string, not {quote_json(listed)}."
        )
    for number, one in enumerate(listed, 1):
        if not isinstance(one, dict):
            raise Refusal("malformed", f"Entry {number} of {place} must be an object, not {quote_json(one)}.")
    return list(listed)


def _line(number: int, line: str, place: str) -> Any:
    try:
        return orjson.loads(line)
    except ValueError as error:
        raise Refusal("malformed", f"Line {number} of {place} must be JSON: {error}.") from error


# --- SenML ----------------------------------------------------------------------------------------------------


def _records(records: list[dict[str, Any]], own: datetime | None) -> Iterator[_Entry]:
    """Yield the records of a SenML pack as entries: `{name: {"v": value, "u": unit}}`."""
    base: dict[str, Any] = {}
    names: set[str] = set()
    for number, record in enumerate(records, 1):
        base |= {key: record[key] for key in ("bn", "bt", "bu", "bv") if key in record}
        names.add(str(base.get("bn", "")))
        if len(names) > 1 and "" not in names:
            raise Refusal("malformed", f"Entry {number}: a SenML pack must have one base name (bn) for a component.")
        value = next((record[key] for key in ("v", "vs", "vb") if key in record), base.get("bv"))
        if value is None:
            continue
        if "v" in record and "bv" in base and not isinstance(value, bool) and isinstance(value, int | float):
            value = value + _number(base, "bv", number)
        name = record.get("n") or base.get("bn")
        if not isinstance(name, str):
            raise Refusal("malformed", f"Entry {number}: a SenML record must have a name, n or bn.")
        measured: dict[str, Any] = {"v": value}
        if (unit := record.get("u", base.get("bu"))) is not None:
            measured["u"] = unit
        time = _number(record, "t", number) + _number(base, "bt", number)
        yield _Entry(number, _senml_time(time, number, own), {name: measured})


def _number(record: dict[str, Any], key: str, number: int) -> float:
    value = record.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refusal("malformed", f"Entry {number}: {key} must be a number, not {quote_json(value)}.")
    return value


def _senml_time(time: float, number: int, own: datetime | None) -> datetime | None:
    """Return the time; None for that of the message. A small number counts from that one."""
    if time >= _ABSOLUTE_FROM:
        try:
            return read_time(time, entry_lists.SECONDS, "")
        except Refusal as refusal:
            raise refusal.at(f"Entry {number}") from refusal
    if own is None:
        raise Refusal("malformed", f"Entry {number}: a relative time needs the message's timestamp.")
    try:
        return own + timedelta(seconds=time)
    except OverflowError as error:
        raise Refusal("malformed", f"Entry {number}: the time {quote_json(time)} is out of range.") from error
