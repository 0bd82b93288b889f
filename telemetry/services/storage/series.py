"""Which series a measurement belongs to: made when its first value comes, and known from then on."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from telemetry.services.pipeline.results import AcceptedItem


class SeriesName(NamedTuple):
    """What makes a series: another unit or type of value is another series."""

    device_id: int
    component: str
    metric: str
    unit: str
    value_type: str


_Key = tuple[str, str, str]  # metric, unit, value type
_Component = tuple[int, str]  # device id, component's key

# Of a component, so many sets of series are looked through for a device; other devices are among the odd ones.
_MOST_SETS = 8


@dataclass(slots=True)
class _Alike:
    """Devices whose components have series of the same names, with ids that follow each other in the names' order.

    They were made together; so what is kept for a device is the first of them, and a fleet is mostly one such set.
    """

    offsets: dict[_Key, int]
    firsts: dict[int, int] = field(default_factory=dict)  # by device


class SeriesIds:
    """The ids of a tenant's series that this process knows. Not shared between threads."""

    def __init__(self) -> None:
        # By component's key; and of devices whose ids do not follow each other the names, then the ids.
        self._alike: dict[str, dict[tuple[_Key, ...], _Alike]] = {}
        self._odd: dict[str, dict[int, tuple[Any, ...]]] = {}
        self._names: dict[tuple[_Key, ...], tuple[_Key, ...]] = {}
        # Components of which all series are known, with the names that are admitted and not made yet; and those of
        # which it was told that values are left out.
        self._whole: dict[_Component, set[_Key]] = {}
        self.told: set[_Component] = set()

    def of(self, device_id: int, component: str) -> tuple[Mapping[_Key, int], int]:
        """A component's series: what is to be added to the number beside it is each one's id.

        Raises KeyError where `resolve` has not put them there.
        """
        for alike in self._alike.get(component, _NO_SETS).values():
            first = alike.firsts.get(device_id)
            if first is not None:
                return alike.offsets, first
        names, *ids = self._odd[component][device_id]
        return dict(zip(names, ids, strict=True)), 0

    def missing(self, items: Iterable[AcceptedItem]) -> set[SeriesName]:
        """The series of the messages' measurements that are not known."""
        missing = set()
        for item in items:
            message = item.verdict
            if not message.measurements:
                continue
            device_id, component = item.spec.device_id, message.component
            known = self._known_of(device_id, component)
            for metric, _value, unit, kind in message.measurements:
                if (metric, unit, kind) not in known:
                    missing.add(SeriesName(device_id, component, metric, unit, kind))
        return missing

    def load(self, connection: psycopg.Connection, schema: str, components: Collection[_Component]) -> None:
        """Know all series of the components, so that they can be counted."""
        if unknown := sorted(set(components) - self._whole.keys()):
            rows = connection.execute(
                sql.SQL(
                    "SELECT s.device_id, s.component, s.metric, s.unit, s.value_type, s.id FROM {} AS s"
                    " JOIN unnest(%s::bigint[], %s::text[]) AS c(device_id, component) USING (device_id, component)"
                ).format(sql.Identifier(schema, "telemetry_series")),
                [list(column) for column in zip(*unknown, strict=True)],
            )
            self._know({SeriesName(*row[:5]): row[5] for row in rows})
            self._whole |= {component: set() for component in unknown}

    def is_known_or_fits(self, component: _Component, name: _Key, most: int) -> bool:
        """Whether the series is there, or the component, which was loaded, has fewer than `most`: then it counts."""
        known, admitted = self._known_of(*component), self._whole[component]
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
            found = _find_or_create(connection, schema, missing)
            self._know({name._replace(device_id=own[name.device_id]): pk for name, pk in found.items()})

    def _known_of(self, device_id: int, component: str) -> Mapping[_Key, int]:
        """As `of`, and empty where nothing is known."""
        try:
            return self.of(device_id, component)[0]
        except KeyError:
            return {}

    def _know(self, found: Mapping[SeriesName, int]) -> None:
        components: dict[_Component, dict[_Key, int]] = {}
        for name, series_id in found.items():
            components.setdefault(name[:2], {})[name[2:]] = series_id
        for (device_id, component), ids in components.items():
            self._keep(device_id, component, self._take(device_id, component) | ids)

    def _take(self, device_id: int, component: str) -> dict[_Key, int]:
        """What is known of the component, by name, which is forgotten by that."""
        try:
            offsets, first = self.of(device_id, component)
        except KeyError:
            return {}
        for alike in self._alike.get(component, _NO_SETS).values():
            alike.firsts.pop(device_id, None)
        self._odd.get(component, {}).pop(device_id, None)
        return {key: first + offset for key, offset in offsets.items()}

    def _keep(self, device_id: int, component: str, ids: Mapping[_Key, int]) -> None:
        names = tuple(sorted(ids))
        names = self._names.setdefault(names, names)
        first = ids[names[0]]
        sets = self._alike.setdefault(component, {})
        is_run = all(ids[name] == first + place for place, name in enumerate(names))
        if is_run and (names in sets or len(sets) < _MOST_SETS):
            alike = sets.setdefault(names, _Alike({name: place for place, name in enumerate(names)}))
            alike.firsts[device_id] = first
        else:
            self._odd.setdefault(component, {})[device_id] = (names, *(ids[name] for name in names))


_NO_SETS: dict[tuple[_Key, ...], _Alike] = {}


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
