"""The series of measurements: created with the first value, and cached from then on."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from telemetry.services.pipeline.results import AcceptedItem


class SeriesName(NamedTuple):
    """The identity of a series: another unit or type of value is another series."""

    device_id: int
    component: str
    metric: str
    unit: str
    value_type: str


_Key = tuple[str, str, str]  # metric, unit, value type
_Component = tuple[int, str]  # device id, component's key

# The maximum number of series sets of a component; further devices are stored one by one.
_MAX_SETS = 8


@dataclass(slots=True)
class _SeriesSet:
    """Devices whose components have series of the same names, with consecutive ids in the names' order.

    They were created together, so only the first id is stored for a device; a fleet is mostly one such set.
    """

    offsets: dict[_Key, int]
    firsts: dict[int, int] = field(default_factory=dict)  # by device


class SeriesIds:
    """The cached ids of a tenant's series. Not shared between threads."""

    def __init__(self) -> None:
        # By component's key. For devices whose ids are not consecutive: the names, then the ids.
        self._sets: dict[str, dict[tuple[_Key, ...], _SeriesSet]] = {}
        self._single: dict[str, dict[int, tuple[Any, ...]]] = {}
        self._names: dict[tuple[_Key, ...], tuple[_Key, ...]] = {}
        # Components of which all series are loaded, with the names that are admitted and not created yet; and those of
        # which an event about omitted values was written.
        self._loaded: dict[_Component, set[_Key]] = {}
        self.reported: set[_Component] = set()

    def ids_of(self, device_id: int, component: str) -> tuple[Mapping[_Key, int], int]:
        """Return (offset by series, first id) of a component; a series' id is the sum of both.

        Raises KeyError where `resolve` has not cached them.
        """
        for one in self._sets.get(component, _NO_SETS).values():
            first = one.firsts.get(device_id)
            if first is not None:
                return one.offsets, first
        names, *ids = self._single[component][device_id]
        return dict(zip(names, ids, strict=True)), 0

    def missing(self, items: Iterable[AcceptedItem]) -> set[SeriesName]:
        """Return the series of the messages' measurements that are not cached."""
        missing = set()
        for item in items:
            message = item.result
            if not message.measurements:
                continue
            device_id, component = item.spec.device_id, message.component
            known = self._known_of(device_id, component)
            for measured in message.measurements:  # timed ones too, which have a member more
                if (measured[0], measured[2], measured[3]) not in known:
                    missing.add(SeriesName(device_id, component, measured[0], *measured[2:4]))
        return missing

    def load(self, connection: psycopg.Connection, schema: str, components: Collection[_Component]) -> None:
        """Load all series of the components, so that they can be counted."""
        if unknown := sorted(set(components) - self._loaded.keys()):
            rows = connection.execute(
                sql.SQL(
                    "SELECT s.device_id, s.component, s.metric, s.unit, s.value_type, s.id FROM {} AS s"
                    " JOIN unnest(%s::bigint[], %s::text[]) AS c(device_id, component) USING (device_id, component)"
                ).format(sql.Identifier(schema, "telemetry_series")),
                [list(column) for column in zip(*unknown, strict=True)],
            )
            self._cache({SeriesName(*row[:5]): row[5] for row in rows})
            self._loaded |= {component: set() for component in unknown}

    def admit(self, component: _Component, name: _Key, limit: int) -> bool:
        """Return whether the series exists or may be created; the component, which must be loaded, may have `limit`."""
        known, admitted = self._known_of(*component), self._loaded[component]
        if name in known or name in admitted:
            return True
        if len(known) + len(admitted - known.keys()) >= limit:
            return False
        admitted.add(name)
        return True

    def resolve(self, connection: psycopg.Connection, schema: str, items: Iterable[AcceptedItem]) -> None:
        """Cache the series of all the messages' measurements, and create those that do not exist."""
        if missing := self.missing(items):
            # The devices' own id objects: each row has an equal one of its own.
            own = {name.device_id: name.device_id for name in missing}
            found = _find_or_create(connection, schema, missing)
            self._cache({name._replace(device_id=own[name.device_id]): pk for name, pk in found.items()})

    def _known_of(self, device_id: int, component: str) -> Mapping[_Key, int]:
        """Return the offsets as `ids_of` does, empty where nothing is cached."""
        try:
            return self.ids_of(device_id, component)[0]
        except KeyError:
            return {}

    def _cache(self, found: Mapping[SeriesName, int]) -> None:
        components: dict[_Component, dict[_Key, int]] = {}
        for name, series_id in found.items():
            components.setdefault(name[:2], {})[name[2:]] = series_id
        for (device_id, component), ids in components.items():
            self._add(device_id, component, self._take(device_id, component) | ids)

    def _take(self, device_id: int, component: str) -> dict[_Key, int]:
        """Remove the component from the cache, and return its ids by name."""
        try:
            offsets, first = self.ids_of(device_id, component)
        except KeyError:
            return {}
        for one in self._sets.get(component, _NO_SETS).values():
            one.firsts.pop(device_id, None)
        self._single.get(component, {}).pop(device_id, None)
        return {key: first + offset for key, offset in offsets.items()}

    def _add(self, device_id: int, component: str, ids: Mapping[_Key, int]) -> None:
        names = tuple(sorted(ids))
        names = self._names.setdefault(names, names)
        first = ids[names[0]]
        sets = self._sets.setdefault(component, {})
        is_run = all(ids[name] == first + offset for offset, name in enumerate(names))
        if is_run and (names in sets or len(sets) < _MAX_SETS):
            one = sets.setdefault(names, _SeriesSet({name: offset for offset, name in enumerate(names)}))
            one.firsts[device_id] = first
        else:
            self._single.setdefault(component, {})[device_id] = (names, *(ids[name] for name in names))


_NO_SETS: dict[tuple[_Key, ...], _SeriesSet] = {}


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
