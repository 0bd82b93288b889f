"""Units inferred from names: right or none, for the values of many makers and for made-up compounds."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.services.metadata.unit_inference import infer_metric, quantities, usual_unit

# Maker → [path, value, the unit that the maker sends ("" for none)].
MAKERS: dict[str, list[tuple[str, Any, str]]] = json.loads(
    (Path(__file__).parents[1] / "data" / "value_names.json").read_text()
)
NAMES = [(maker, *row) for maker, rows in MAKERS.items() for row in rows]


def _path(text: str) -> tuple[str, ...]:
    """PM2.5 is one key of Tasmota, and not two."""
    return tuple(part.replace("\0", ".") for part in text.replace("PM2.5", "PM2\0005").split("."))


def test_no_unit_is_wrong_for_names_of_many_makers(tenant_units: frozenset[str]) -> None:
    assert len(MAKERS) >= 20
    assert len(NAMES) >= 200
    wrong, right, possible = [], 0, 0
    for maker, path, value, unit in NAMES:
        inferred = infer_metric(_path(path), value).unit
        if inferred and inferred != unit:
            wrong.append((maker, path, value, f"sends {unit!r}", f"inferred {inferred!r}"))
        right += bool(inferred) and inferred in tenant_units
        possible += unit in tenant_units
    assert wrong == []
    assert right / possible > 0.7, "most units must be inferred"


@pytest.fixture(scope="module")
def tenant_units() -> frozenset[str]:
    from devices.services.metadata.unit_catalogue import UNITS

    return frozenset(symbol for symbol, *_ in UNITS)


@pytest.mark.parametrize(
    ("name", "value", "unit"),
    [
        ("power_factor", 0.93, ""),
        ("power_outage_count", 3, ""),
        ("ReactivePower", 31.2, ""),
        ("wind_dir", 231, "°"),
        ("wind_bearing", 231, "°"),
        ("soil_temperature", 14.2, "°C"),
        ("current_heating_setpoint", 21.5, "°C"),
        ("battery_voltage", 3.01, "V"),
        ("battery_voltage", 2987, "mV"),
        ("color_temp", 370, ""),
        ("voltage", 3015, "mV"),
        ("voltage", 231.4, "V"),
        ("curFlowTemp", 43.1, "°C"),
        ("tvoc_mg", 0.31, ""),
        ("DewPoint", 9.1, "°C"),
        ("tempf", 68.1, "°F"),
        ("tC", 21.1, "°C"),
        ("tF", 70.1, "°F"),
        ("uptime_seconds", 812, "s"),
        ("RSSI_dBm", -71, "dBm"),
        # Siblings of the same kinds.
        ("apparentPower", 91.2, ""),
        ("tx_power", 14, ""),
        ("heating_power", 55, ""),
        ("temperature_alarm", 1, ""),
        ("temperature_offset", -0.5, ""),
        ("humidity_status", 2, ""),
        ("absolute_humidity", 9.4, ""),
        ("leakage_current", 0.3, ""),
        ("current_state", 2, ""),
        ("current_temperature", 20.3, "°C"),
        ("flow_temperature", 43.1, "°C"),
        ("battery_low", 1, ""),
        ("battery_current", -1.3, "A"),
        ("voltage_battery", 12.7, ""),
        ("battery_temperature", 21.1, "°C"),
        ("price_kwh", 0.31, ""),
        ("rain_rate_mm", 0.3, ""),
        ("pressure_in", 29.92, ""),
        ("tire_pressure", 900, ""),
        ("voltage", 2304, ""),
        ("vcc", 3312, "mV"),
        ("humidity", 0.43, ""),
        ("battery", 3.7, ""),
        ("frequency", 868.1, ""),
        ("noise", -95, ""),
        ("temperature", 2150, ""),
        ("temperature", 294.3, ""),
        ("co2_raw", 612, ""),
        ("uv_power", 0.2, ""),
        ("배터리전압", 12.6, "V"),
        ("색온도", 4000, ""),
        ("온도편차", 0.4, ""),
        ("무효전력", 12, ""),
        ("토양온도", 12.1, "°C"),
    ],
)
def test_the_last_known_word_of_a_compound_counts(name: str, value: float, unit: str) -> None:
    assert infer_metric((name,), value).unit == unit


@pytest.mark.parametrize(
    ("path", "value", "unit"),
    [
        (("temperature", "value"), 21, "°C"),
        (("temperature", "id"), 21, ""),
        (("temperature", "v"), 21, "°C"),
        (("battery", "v"), 3.7, "V"),
        (("battery", "state"), 3, ""),
        (("wind", "deg"), 240, "°"),
        (("wind", "speed"), 3.1, ""),
        (("current", "value"), 3, ""),
        (("temperature", "fahrenheit"), 70, "°F"),
    ],
)
def test_the_name_of_the_object_counts_where_the_value_has_none(path: tuple[str, ...], value: float, unit: str) -> None:
    assert infer_metric(path, value).unit == unit


def test_what_a_name_can_measure() -> None:
    assert quantities(("wind_speed",)) == ("speed",)
    assert quantities(("sensor_id",)) == ()
    assert quantities(("reading", "value")) is None
    assert (usual_unit(("pressure",)), usual_unit(("power_factor",)), usual_unit(("xyz",))) == ("hPa", "", "")


# The oracle's own words: quantity → (names of it, its units). Written apart from the vocabulary that is tested.
_QUANTITIES = {
    "temperature": (("temp", "temperature"), {"°C", "°F", "K"}),
    "humidity": (("humidity", "hum"), {"%"}),
    "pressure": (("pressure", "press"), {"Pa", "hPa", "kPa", "mbar", "bar", "psi", "mmHg", "inHg"}),
    "voltage": (("voltage",), {"V", "mV"}),
    "current": (("current",), {"A", "mA"}),
    "power": (("power",), {"W", "kW", "%"}),
    "energy": (("energy",), {"Wh", "kWh", "MWh", "J"}),
    "light": (("illuminance", "lux"), {"lx"}),
    "gas": (("co2", "eco2"), {"ppm", "ppb", "mg/L", "µg/m³"}),
    "battery": (("battery", "batt"), {"%", "V", "mV", "A", "mA"}),
    "particles": (("pm25", "pm10"), {"µg/m³", "mg/L"}),
    "frequency": (("frequency", "freq"), {"Hz", "kHz", "MHz"}),
}
_SPELLED = {
    "celsius": "°C", "fahrenheit": "°F", "percent": "%", "hpa": "hPa", "kpa": "kPa", "mv": "mV", "kwh": "kWh",
    "watts": "W", "volts": "V", "amps": "A", "lx": "lx", "ppm": "ppm", "hz": "Hz", "c": "°C", "f": "°F", "ma": "mA",
}  # fmt: skip
_BEFORE = [
    "kitchen",
    "soil",
    "outdoor",
    "sensor1",
    "battery",
    "current",
    "max",
    "motor",
    "wind",
    "light",
    "pump",
    "power",
]
_AFTER_HARMLESS = ["avg", "max", "1", "l1", "value", "indoor"]
_AFTER_OTHER = [
    "factor",
    "count",
    "alarm",
    "status",
    "mode",
    "calibration",
    "trend",
    "index",
    "state",
    "behavior",
    "days",
]
_numbers = st.one_of(st.integers(-200, 200_000), st.floats(-200, 200_000, allow_nan=False))


def _spell(words: list[str], style: int) -> str:
    if style == 0:
        return "_".join(words)
    if style == 1:
        return words[0] + "".join(word.capitalize() for word in words[1:])
    return "-".join(words) if style == 2 else " ".join(word.capitalize() for word in words)


@given(
    st.lists(st.sampled_from(_BEFORE), max_size=2),
    st.sampled_from([(kind, word) for kind, (words, _) in _QUANTITIES.items() for word in words]),
    st.lists(st.sampled_from(_AFTER_HARMLESS), max_size=1),
    st.one_of(st.none(), st.sampled_from(sorted(_SPELLED))),
    st.one_of(st.none(), st.sampled_from(_AFTER_OTHER)),
    st.integers(0, 3),
    _numbers,
)
def test_a_unit_never_contradicts_the_name(
    before: list[str],
    quantity: tuple[str, str],
    after: list[str],
    spelled: str | None,
    other: str | None,
    style: int,
    value: float,
) -> None:
    words = [*before, quantity[1], *after, *([spelled] if spelled else []), *([other] if other else [])]
    unit = infer_metric((_spell(words, style),), value).unit
    allowed = {""}
    if spelled and other is None:
        allowed |= {_SPELLED[spelled]}
    if other is None:
        allowed |= _QUANTITIES[quantity[0]][1]
    elif spelled:
        allowed |= {_SPELLED[spelled]} if len(spelled) > 1 else set()
    assert unit in allowed, words
    if other and not spelled:
        assert unit == "", words


@given(st.lists(st.text(max_size=12), min_size=1, max_size=4), _numbers)
def test_any_name_gives_a_valid_key(path: list[str], value: float) -> None:
    key, unit = infer_metric(tuple(path), value)
    assert key == key.lower()
    assert 0 < len(key) <= 63
    assert isinstance(unit, str)
