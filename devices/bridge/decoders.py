"""Payloads of off-the-shelf devices as values: numbers in text, SenML packs, Ruuvi's broadcasts. Pure."""

import json
import math
from typing import Any

# (values, time as Unix seconds; None: now)
Decoded = tuple[dict[str, Any], float | None]

# RFC 8428: a smaller time is relative to now.
_RELATIVE_BELOW = 2**28
# SenML's own units of the usual quantities; the others are spelled as everywhere.
_SENML_UNITS = {"Cel": "°C", "%RH": "%", "%EL": "%", "/": "", "lx": "lx"}
_RUUVI_HEADER = "FF9904"
_RUUVI_BYTES = 24


class UnreadablePayload(ValueError):
    """The payload does not have the form that its dialect states."""


def read_scalar(payload: bytes) -> Any:
    """Return the number, the switch or the text of a payload without structure."""
    try:
        text = payload.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise UnreadablePayload("the text is not UTF-8") from error
    lowered = text.lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    if lowered in ("", "nan", "null", "unavailable", "unknown", "none"):
        return None
    try:
        number = float(text)
    except ValueError:
        return text
    if not math.isfinite(number):
        return None
    return int(text) if text.lstrip("+-").isdigit() else number


def read_object(payload: bytes) -> dict[str, Any]:
    """Return the JSON object of a payload."""
    document = read_json(payload)
    if not isinstance(document, dict):
        raise UnreadablePayload("the payload must be a JSON object")
    return document


def read_json(payload: bytes) -> Any:
    """Return the JSON value of a payload, with null for NaN and infinity."""
    try:
        return json.loads(payload, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise UnreadablePayload(f"the payload must be JSON: {error}") from error


def read_senml(payload: bytes, now: float) -> list[Decoded]:
    """Return the values of a SenML pack (RFC 8428) by the time of measurement, oldest first."""
    pack = read_json(payload)
    if not isinstance(pack, list) or not all(isinstance(record, dict) for record in pack):
        raise UnreadablePayload("a SenML pack must be a list of objects")
    base: dict[str, Any] = {"bn": "", "bt": 0, "bu": "", "bv": 0}
    by_time: dict[float, dict[str, Any]] = {}
    for record in pack:
        base |= {name: record[name] for name in base if name in record}
        value = next((record[name] for name in ("v", "vb", "vs") if name in record), None)
        if value is None:
            continue
        try:
            time = float(base["bt"]) + float(record.get("t", 0))
            value = value + base["bv"] if "v" in record and base["bv"] else value
            name = str(base["bn"]) + str(record.get("n", ""))
        except (TypeError, ValueError) as error:
            raise UnreadablePayload(f"a SenML record is wrong: {error}") from error
        by_time.setdefault(now + time if time < _RELATIVE_BELOW else time, {})[name or "value"] = value
    if not by_time:
        raise UnreadablePayload("the SenML pack has no values")
    return [(by_time[time], time) for time in sorted(by_time)]


def senml_units(payload: bytes) -> dict[str, str]:
    """Return the unit of each name in a SenML pack that `read_senml` has read."""
    base: dict[str, Any] = {"bn": "", "bu": ""}
    units: dict[str, str] = {}
    for record in read_json(payload):
        base |= {name: record[name] for name in base if name in record}
        if unit := record.get("u", base["bu"]):
            units[str(base["bn"]) + str(record.get("n", ""))] = _SENML_UNITS.get(str(unit), str(unit))
    return units


def read_ruuvi(document: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a RuuviTag's broadcast of format 5 in the member `data`, as a Ruuvi Gateway relays it."""
    data = str(document.get("data", "")).upper()
    _, found, rest = data.partition(_RUUVI_HEADER)
    try:
        raw = bytes.fromhex(rest[: 2 * _RUUVI_BYTES])
    except ValueError as error:
        raise UnreadablePayload("data must be hexadecimal") from error
    if not found or len(raw) < _RUUVI_BYTES or raw[0] != 5:
        raise UnreadablePayload("data must contain a RuuviTag's broadcast of format 5")

    def word(at: int, *, signed: bool = False) -> int | None:
        number = int.from_bytes(raw[at : at + 2], "big", signed=signed)
        return None if number == (-0x8000 if signed else 0xFFFF) else number

    def scaled(number: int | None, divisor: int, offset: float = 0) -> float | None:
        return None if number is None else round(number / divisor + offset, 4)

    power = int.from_bytes(raw[13:15], "big")
    values = {
        "temperature": scaled(word(1, signed=True), 200),
        "humidity": scaled(word(3), 400),
        "pressure": scaled(word(5), 1, 50_000),
        "acceleration_x": scaled(word(7, signed=True), 1000),
        "acceleration_y": scaled(word(9, signed=True), 1000),
        "acceleration_z": scaled(word(11, signed=True), 1000),
        "battery_voltage": None if power >> 5 == 2047 else round((power >> 5) / 1000 + 1.6, 3),
        "tx_power": None if power & 31 == 31 else 2 * (power & 31) - 40,
        "movement_counter": None if raw[15] == 255 else raw[15],
        "sequence": word(16),
    }
    if isinstance(rssi := document.get("rssi"), int):
        values["rssi"] = rssi
    return {name: value for name, value in values.items() if value is not None}
