"""The cached ids of series equal those of the table, in whatever order any process created the series."""

import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection

from telemetry.services.pipeline.results import Measurement
from tests.telemetry.rollup_tenant import RollupTenant, make_rollup_tenant, remove_rollup_tenant

METRICS = tuple("abcdefghij")


@pytest.fixture(scope="module")
def made(django_db_setup: None, django_db_blocker: Any) -> Iterator[RollupTenant]:
    with django_db_blocker.unblock():
        made = make_rollup_tenant("seriesids", devices=4)
        yield made
        remove_rollup_tenant(made)
        connection.close()


@pytest.fixture
def field(live_db: None, made: RollupTenant) -> RollupTenant:
    return made


def item(device_id: int, component: str, metrics: list[str]) -> Any:
    measured = [Measurement(metric, 1.0, "u", "number") for metric in metrics]
    return SimpleNamespace(
        spec=SimpleNamespace(device_id=device_id), result=SimpleNamespace(component=component, measurements=measured)
    )


@pytest.mark.parametrize("seed", range(3))
def test_ids_are_those_of_the_table(field: RollupTenant, seed: int) -> None:
    from telemetry.services.storage.series import SeriesIds

    chance, processes = random.Random(seed), [SeriesIds(), SeriesIds()]
    with field.connect() as own:
        for _ in range(80):
            known = chance.choice(processes)
            items = [
                item(device, f"{seed}-{chance.choice('xy')}", chance.sample(METRICS, chance.choice([1, 3, 3, 5])))
                for device in chance.sample(list(field.devices), 2)
            ]
            known.resolve(own, field.schema, items)
            assert not known.missing(items)
            rows = own.execute("SELECT device_id, component, metric, id FROM telemetry_series").fetchall()
            table = {row[:3]: row[3] for row in rows}
            for one in items:
                offsets, first = known.ids_of(one.spec.device_id, one.result.component)
                for metric, _value, unit, kind in one.result.measurements:
                    place = first + offsets[metric, unit, kind]
                    assert place == table[one.spec.device_id, one.result.component, metric]
        assert any(known._single for known in processes)


def test_a_fleet_that_is_alike_costs_a_number_a_device(field: RollupTenant) -> None:
    from telemetry.services.storage.series import SeriesIds

    known = SeriesIds()
    with field.connect() as own:
        items = [item(device, "alike", ["temperature", "humidity", "pressure"]) for device in field.devices]
        known.resolve(own, field.schema, items)
    [one] = known._sets["alike"].values()
    assert set(one.firsts) == set(field.devices)
    assert not known._single
    # Another kind of value later: the ids no longer follow each other.
    with field.connect() as own:
        later = [item(device, "alike", ["altitude"]) for device in field.devices]
        known.resolve(own, field.schema, later)
    assert set(known._single["alike"]) == set(field.devices)
    assert not one.firsts


def test_what_is_not_known_is_said(field: RollupTenant) -> None:
    from telemetry.services.storage.series import SeriesIds

    known, device = SeriesIds(), min(field.devices)
    with pytest.raises(KeyError):
        known.ids_of(device, "nothing")
    assert [name.metric for name in known.missing([item(device, "nothing", ["a"])])] == ["a"]
