"""Simulated faults of the field: each turns one measurement into the packets that are sent instead."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from management.device_client.gwanje_device import GwanjeDevice, sign_v1, sign_v2

Packet = tuple[str, bytes]  # topic, payload
OUT_OF_RANGE = 1_000_000.0  # impossible in any unit of these sensors
MALFORMED = (b"", b"\xff\xfe\x00", b'{"timestamp": "2026-', b"[1, 2, 3]", b"temperature=21.5")


def parse_faults(text: str) -> dict[str, float]:
    """Return {fault: probability} of "late=0.02,duplicate=0.01"; ValueError that says what is wrong."""
    faults: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, probability = part.partition("=")
        if name not in FAULTS:
            raise ValueError(f"unknown fault {name!r}: known are {', '.join(FAULTS)}")
        if not equals:
            raise ValueError(f"{name} needs a probability, as in {name}=0.01")
        faults[name] = float(probability)
        if not 0 <= faults[name] <= 1:
            raise ValueError(f"{name}: a probability is between 0 and 1, not {probability}")
    if sum(faults.values()) > 1:
        raise ValueError(f"a message can have one fault at most: the probabilities add up to {sum(faults.values()):g}")
    return faults


def choose_fault(faults: Mapping[str, float], rng: Random) -> str | None:
    """Return the fault of the next message, or None for a good one."""
    remainder = rng.random()
    for name, probability in faults.items():
        remainder -= probability
        if remainder < 0:
            return name
    return None


def good(device: GwanjeDevice, component: str, values: dict[str, Any], when: datetime | None = None) -> list[Packet]:
    """Return the correct message, under the device's next number."""
    message = device.compose(component, values, when)
    device.seq += 1
    return [(device.topic(component), device.encode(message))]


def _bad_signature(device: GwanjeDevice, component: str, values: dict[str, Any], _rng: Random) -> list[Packet]:
    # a forgery: it must not consume a number of the device, which would look like a loss
    message, secret = device.compose(component, values), f"not {device.secret}"
    if device.signature == "v2":
        return [(device.topic(component), sign_v2(message, secret, device.kid).encode("ascii"))]
    return [(device.topic(component), json.dumps(sign_v1(message, secret)).encode())]


def _malformed(device: GwanjeDevice, component: str, _values: dict[str, Any], rng: Random) -> list[Packet]:
    return [(device.topic(component), rng.choice(MALFORMED))]


def _unknown_component(device: GwanjeDevice, _component: str, values: dict[str, Any], _rng: Random) -> list[Packet]:
    return good(device, "no-such-component", values)


def _late(device: GwanjeDevice, component: str, values: dict[str, Any], rng: Random) -> list[Packet]:
    return good(device, component, values, datetime.now(UTC) - timedelta(minutes=rng.uniform(6, 24 * 60)))


def _future(device: GwanjeDevice, component: str, values: dict[str, Any], rng: Random) -> list[Packet]:
    return good(device, component, values, datetime.now(UTC) + timedelta(minutes=rng.uniform(6, 24 * 60)))


def _duplicate(device: GwanjeDevice, component: str, values: dict[str, Any], _rng: Random) -> list[Packet]:
    return good(device, component, values) * 2


def _wrong_cpu_serial(device: GwanjeDevice, component: str, values: dict[str, Any], rng: Random) -> list[Packet]:
    message = device.compose(component, values)
    device.seq += 1
    return [(device.topic(component), device.encode({**message, "cpu_serial": f"{rng.getrandbits(64):016x}"}))]


def _out_of_range(device: GwanjeDevice, component: str, values: dict[str, Any], _rng: Random) -> list[Packet]:
    """Return an impossible number in the place of the first; nothing for a switch, which has none."""
    first = next((key for key, value in values["value"].items() if isinstance(value, int | float)), None)
    if first is None:
        return []
    return good(device, component, {"value": {**values["value"], first: OUT_OF_RANGE}})


def _disconnect(device: GwanjeDevice, component: str, values: dict[str, Any], _rng: Random) -> list[Packet]:
    """Return a good message: the fleet closes the connection after it."""
    return good(device, component, values)


# the packets that replace a good measurement; none when the fault does not apply to it
FAULTS: dict[str, Callable[[GwanjeDevice, str, dict[str, Any], Random], list[Packet]]] = {
    "bad_signature": _bad_signature,
    "unknown_component": _unknown_component,
    "malformed": _malformed,
    "late": _late,
    "duplicate": _duplicate,
    "future": _future,
    "disconnect": _disconnect,
    "wrong_cpu_serial": _wrong_cpu_serial,
    "out_of_range": _out_of_range,
}
