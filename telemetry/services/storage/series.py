"""Which series a measurement belongs to: made when its first value comes, and known from then on."""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from .types import AcceptedItem


class SeriesName(NamedTuple):
    """What makes a series: another unit or type of value is another series."""

    device_id: int
    component: str
    metric: str
    unit: str
    value_type: str


_Key = tuple[str, str, str]  # metric, unit, value type
_Component = tuple[int, str]  # device id, component's key


class ComponentSeries(tuple[Any, ...]):
    """The ids of a component's series, by (metric, unit, value type): first where each stands, then the ids.

    A fleet has as many of these as components: their names, and where each stands, are those of all components alike.
    """

    __slots__ = ()

    @property
    def places(self) -> dict[_Key, int]:
        """Where the id of each name stands."""
        return tuple.__getitem__(self, 0)

    def ids(self) -> dict[_Key, int]:
        """The names and the ids."""
        return {key: tuple.__getitem__(self, place) for key, place in self.places.items()}


class SeriesIds:
    """The ids of a tenant's series that this process knows. Not shared between threads."""

    def __init__(self) -> None:
        # By component's key, and within it by device: so there is nothing to be made for each entry.
        self._known: dict[str, dict[int, ComponentSeries]] = {}
        self._places: dict[tuple[_Key, ...], dict[_Key, int]] = {}
        # Components of which all series are known, with the names that are admitted and not made yet; and those of
        # which it was told that values are left out.
        self._whole: dict[_Component, set[_Key]] = {}
        self.told: set[_Component] = set()

    def of(self, device_id: int, component: str) -> ComponentSeries:
        """The ids of a component's series; `resolve` has put them there."""
        return self._known[component][device_id]

    def missing(self, items: Iterable[AcceptedItem]) -> set[SeriesName]:
        """The series of the messages' measurements that are not known."""
        missing = set()
        for item in items:
            message = item.verdict
            if not message.measurements:
                continue
            device_id, component = item.spec.device_id, message.component
            places = self._places_of(device_id, component)
            for metric, _value, unit, kind in message.measurements:
                if (metric, unit, kind) not in places:
                    missing.add(SeriesName(device_id, component, metric, unit, kind))
        return missing

    def load(self, connection: psycopg.Connection, schema: str, components: Collection[_Component]) -> None:
        """Know all series of the components, so that they can be counted."""
        if unknown := sorted(set(components) - self._whole.keys()):
            for row in connection.execute(
                sql.SQL(
                    "SELECT s.device_id, s.component, s.metric, s.unit, s.value_type, s.id FROM {} AS s"
                    " JOIN unnest(%s::bigint[], %s::text[]) AS c(device_id, component) USING (device_id, component)"
                ).format(sql.Identifier(schema, "telemetry_series")),
                [list(column) for column in zip(*unknown, strict=True)],
            ):
                self._add(SeriesName(*row[:5]), row[5])
            self._whole |= {component: set() for component in unknown}

    def is_known_or_fits(self, component: _Component, name: _Key, most: int) -> bool:
        """Whether the series is there, or the component, which was loaded, has fewer than `most`: then it counts."""
        known, admitted = self._places_of(*component), self._whole[component]
        if name in known or name in admitted:
            return True
        if len(known) + len(admitted - known.keys()) >= most:
            return False
        admitted.add(name)
        return True

    def resolve(self, connection: psycopg.Connection, schema: str, items: Iterable[AcceptedItem]) -> None:
        """Know the series of all the messages' measurements; those that are not there are made."""
        if missing := self.missing(items):
            # The devices' own ids: the rows bring equal ones, an object for each.
            own = {name.device_id: name.device_id for name in missing}
            for name, series_id in _find_or_create(connection, schema, missing).items():
                self._add(name._replace(device_id=own[name.device_id]), series_id)

    def _places_of(self, device_id: int, component: str) -> dict[_Key, int]:
        known = self._known.get(component, {}).get(device_id)
        return known.places if known is not None else _NOWHERE

    def _add(self, name: SeriesName, series_id: int) -> None:
        devices = self._known.setdefault(name.component, {})
        known = devices.get(name.device_id)
        ids = known.ids() if known is not None else {}
        ids[name[2:]] = series_id
        keys = tuple(sorted(ids))
        places = self._places.get(keys)
        if places is None:
            places = self._places[keys] = {key: place for place, key in enumerate(keys, 1)}
        devices[name.device_id] = ComponentSeries((places, *(ids[key] for key in keys)))


_NOWHERE: dict[_Key, int] = {}


def _find_or_create(
    connection: psycopg.Connection, schema: str, names: Collection[SeriesName]
) -> dict[SeriesName, int]:
    columns = [list(column) for column in zip(*sorted(names), strict=True)]
    table = sql.Identifier(schema, "telemetry_series")
    wanted = sql.SQL(
        "unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[])"
        " AS n(device_id, component, metric, unit, value_type)"
    )
    find = sql.SQL(
        "SELECT n.*, s.id FROM {} AS s JOIN {} USING (device_id, component, metric, unit, value_type)"
    ).format(table, wanted)
    found = {SeriesName(*row[:5]): row[5] for row in connection.execute(find, columns)}
    if len(found) < len(names):
        # In the names' order, so that two listeners do not wait for each other crosswise.
        connection.execute(
            sql.SQL(
                "INSERT INTO {} (device_id, component, metric, unit, value_type)"
                " SELECT * FROM {} ORDER BY 1, 2, 3, 4, 5 ON CONFLICT DO NOTHING"
            ).format(table, wanted),
            columns,
        )
        found = {SeriesName(*row[:5]): row[5] for row in connection.execute(find, columns)}
    return found
