"""Answers in another unit than that of the measurement, compared with the formulas of textbooks."""

import random
from collections.abc import Callable
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest
from django_tenants.utils import schema_context

from devices.models import Unit
from tests.factories import add_readings, add_series, make_device

from .client import HOUR, T0, Api, problem_of, problems

RANGE = {"from": "2026-11-22T09:00:00Z", "to": "2026-11-22T12:00:00Z"}
# UCUM: a psi is the weight of a pound (0.45359237 kg × 9.80665 m/s²) on a square inch (0.0254 m).
PSI = Fraction("0.45359237") * Fraction("9.80665") / Fraction("0.0254") ** 2
FORMULAS: list[tuple[str, str, Callable[[Fraction], Fraction]]] = [
    ("°C", "°F", lambda celsius: celsius * 9 / 5 + 32),
    ("°F", "K", lambda fahrenheit: (fahrenheit - 32) * 5 / 9 + Fraction("273.15")),
    ("hPa", "psi", lambda hectopascal: hectopascal * 100 / PSI),
    ("kWh", "J", lambda energy: energy * 3_600_000),
    ("ppm", "%", lambda ppm: ppm / 10_000),
    ("km/h", "m/s", lambda speed: speed * 1000 / 3600),
]


@pytest.fixture
def ask(api: Api, greenhouse: Any) -> Callable[..., Any]:
    named = {"device": str(greenhouse.uuid), "component": "dht22", "metric": "temperature", **RANGE}
    return lambda path, **query: api.get(
        path, **{name: value for name, value in (named | query).items() if value is not None}
    )


@pytest.mark.parametrize(("sent", "wanted", "formula"), FORMULAS, ids=[f"{a} to {b}" for a, b, _ in FORMULAS])
def test_every_answer_has_the_numbers_in_the_unit(
    ask: Callable[..., Any], tenant_a: Any, greenhouse: Any, sent: str, wanted: str, formula: Any, api: Api
) -> None:
    chance = random.Random(sent)
    values = [round(chance.uniform(-50, 150), chance.randrange(4)) for _ in range(50)]
    times = [T0 + timedelta(seconds=chance.randrange(5400)) for _ in values]
    rows = sorted(dict(zip(times, values, strict=True)).items())
    add_readings(tenant_a, add_series(tenant_a, greenhouse, "dht22", "temperature", sent), *rows)
    exact = [formula(Fraction(repr(value))) for _, value in rows]
    converted = [float(value) for value in exact]

    for path in ("readings/", "readings/series/"):
        found = ask(path, unit=wanted).json()["results"]
        assert [row["value"] for row in found] == converted
        assert {row["unit"] for row in found} == {wanted}
    newest = api.get("latest/", metric="temperature", unit=wanted).json()["results"]
    assert newest == api.get("latest/", unit=[wanted, "°"]).json()["results"]
    assert [(row["value"], row["unit"]) for row in newest] == [(converted[-1], wanted)]
    (of_device,) = api.get(f"devices/{greenhouse.uuid}/latest/", unit=wanted).json()["results"]
    assert (of_device["value"], of_device["unit"]) == (converted[-1], wanted)
    (line,) = ask("readings/chart/", unit=wanted).json()["series"]
    assert ([point["value"] for point in line["points"]], line["unit"]) == (converted, wanted)
    (series,) = ask("readings/aggregates/", unit=wanted, interval="1d").json()["series"]
    (day,) = series["results"]
    assert series["unit"] == wanted
    assert (day["count"], day["min"], day["max"], day["last"]) == (
        len(exact), min(converted), max(converted), converted[-1],
    )  # fmt: skip
    assert day["sum"] == pytest.approx(float(sum(exact)), rel=1e-12, abs=1e-9)
    assert day["avg"] == pytest.approx(float(sum(exact) / len(exact)), rel=1e-12, abs=1e-9)


@pytest.mark.parametrize(
    ("values", "mean", "total", "median"),
    [
        ((23.5, 23.625, 23.75), 74.525, 223.575, 74.525),
        ((0.1, 0.1, 0.1), 32.18, 96.54, 32.18),
        ((23.0, 24.25), 74.525, 149.05, 74.525),
    ],
)
def test_means_sums_and_percentiles_are_rounded_once(
    ask: Callable[..., Any],
    api: Api,
    tenant_a: Any,
    greenhouse: Any,
    values: Any,
    mean: float,
    total: float,
    median: float,
) -> None:
    rows = [(T0 + timedelta(minutes=number), value) for number, value in enumerate(values)]
    add_readings(tenant_a, add_series(tenant_a, greenhouse, "dht22", "temperature", "°C"), *rows)
    (series,) = ask("readings/aggregates/", unit="°F", interval="1d").json()["series"]
    (group,) = api.get(
        "readings/group-aggregates/", metric="temperature", unit="°F", interval="1d", percentile=50, **RANGE
    ).json()["groups"]
    for (row,) in (series["results"], group["results"]):
        assert (row["avg"], row["sum"]) == (mean, total)
    assert group["results"][0]["percentiles"] == [{"percent": 50.0, "value": median}]


def test_filled_intervals_have_the_unit_too(ask: Callable[..., Any], tenant_a: Any, greenhouse: Any) -> None:
    add_readings(tenant_a, add_series(tenant_a, greenhouse, "dht22", "temperature", "°C"), (T0, 20.0))
    (series,) = ask("readings/aggregates/", unit="°F", interval="1h", fill="previous").json()["series"]
    assert [(row["last"], row["avg"], row["sum"]) for row in series["results"]] == [
        (68.0, 68.0, 68.0), (68.0, 68.0, None), (68.0, 68.0, None),
    ]  # fmt: skip


def test_a_unit_that_was_changed_makes_one_unit(ask: Callable[..., Any], tenant_a: Any, greenhouse: Any) -> None:
    add_readings(tenant_a, add_series(tenant_a, greenhouse, "dht22", "temperature", "°C"), (T0, 20.0))
    add_readings(tenant_a, add_series(tenant_a, greenhouse, "dht22", "temperature", "°F"), (T0 + HOUR, 70.0))
    for path in ("readings/", "readings/series/"):
        rows = ask(path, unit="°F").json()["results"]
        assert [(row["value"], row["unit"]) for row in rows] == [(68.0, "°F"), (70.0, "°F")]
    found = ask("readings/aggregates/", unit="°F", interval="1d").json()["series"]
    assert [(one["unit"], one["other_units"]) for one in found] == [("°F", ["°F"]), ("°F", ["°C"])]


def test_several_units_are_for_several_metrics(api: Api, tenant_a: Any, greenhouse: Any) -> None:
    add_readings(tenant_a, add_series(tenant_a, greenhouse, "dht22", "temperature", "°C"), (T0, 20.0))
    add_readings(tenant_a, add_series(tenant_a, greenhouse, "dht22", "pressure", "hPa"), (T0, 1013.0))
    add_readings(tenant_a, add_series(tenant_a, greenhouse, "relay", "on", "", "boolean"), (T0, True))
    add_readings(tenant_a, add_series(tenant_a, greenhouse, "relay", "mode", "", "text"), (T0, "auto"))
    rows = api.get("readings/series/", unit=["[degF]", "kPa"], **RANGE).json()["results"]
    assert [(row["metric"], row["value"], row["unit"]) for row in rows] == [
        ("pressure", 101.3, "kPa"), ("temperature", 68.0, "°F"), ("mode", "auto", None), ("on", True, None),
    ]  # fmt: skip


def test_an_own_unit_of_the_tenant(ask: Callable[..., Any], tenant_a: Any, greenhouse: Any) -> None:
    with schema_context(tenant_a.schema_name):
        Unit.objects.create(symbol="degrees", name="own", quantity="temperature", ucum="Cel")
    add_readings(tenant_a, add_series(tenant_a, greenhouse, "dht22", "temperature", "degrees"), (T0, 20.0))
    assert [row["value"] for row in ask("readings/", unit="°F").json()["results"]] == [68.0]
    assert [row["unit"] for row in ask("readings/", unit="degrees").json()["results"]] == ["degrees"]


@pytest.mark.parametrize(
    "path", ["readings/", "readings/series/", "readings/aggregates/", "readings/chart/", "latest/"]
)
def test_what_cannot_be_converted_is_refused_by_name(
    ask: Callable[..., Any], api: Api, tenant_a: Any, greenhouse: Any, path: str
) -> None:
    add_readings(tenant_a, add_series(tenant_a, greenhouse, "dht22", "temperature", "°C"), (T0, 20.0))
    add_series(tenant_a, greenhouse, "dht22", "temperature", "%")  # without readings: it is in no one's way
    query: dict[str, Any] = {"interval": "1h"} if "aggregates" in path else {}
    query |= {"from": None, "to": None} if path == "latest/" else {}
    assert ask(path, unit="°F", **query).status_code == 200
    for unit, code, text in (
        ("psi", "incompatible_units", "'temperature' was measured in °C, which cannot be converted to psi."),
        ("°X", "does_not_exist", "There is no unit '°X'. units/ lists the units"),
    ):
        answer = ask(path, unit=unit, **query)
        assert answer.status_code == 400
        assert text in problems(answer)["unit"]
        assert problem_of(answer)["errors"][0]["code"] == code
    assert "must not be empty" in problems(ask(path, unit="", **query))["unit"]
    bare = add_series(tenant_a, greenhouse, "dht22", "temperature", "")
    add_readings(tenant_a, bare, (T0 + HOUR, 1.0))
    assert "values without a unit" in problems(ask(path, unit="°F", **query))["unit"]


def test_a_number_that_does_not_fit_is_refused(ask: Callable[..., Any], tenant_a: Any, greenhouse: Any) -> None:
    add_readings(tenant_a, add_series(tenant_a, greenhouse, "dht22", "temperature", "kWh"), (T0, 1.7e308))
    for path in ("readings/", "readings/chart/", "readings/aggregates/"):
        answer = ask(path, unit="J", **({"interval": "1h"} if "aggregates" in path else {}))
        assert answer.status_code == 400
        assert "too large in J" in problems(answer)["unit"]


def test_another_tenants_units_are_unknown(ask: Callable[..., Any], tenant_b: Any) -> None:
    with schema_context(tenant_b.schema_name):
        Unit.objects.create(symbol="foreign", name="own", quantity="temperature", ucum="Cel")
    make_device(tenant_b)
    assert "There is no unit 'foreign'" in problems(ask("readings/", unit="foreign"))["unit"]
