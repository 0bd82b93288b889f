"""Simulated sensors of a greenhouse: a daily curve and some noise for each component type."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any


@dataclass(frozen=True)
class Moment:
    """When and where something is measured: the hour of the day (0 to 24, UTC), the days since 1970."""

    hour: float
    day: float
    rng: Random

    @classmethod
    def at(cls, when: datetime, rng: Random) -> "Moment":
        """Return the moment of an aware datetime."""
        seconds = when.timestamp()
        return cls(hour=seconds % 86400 / 3600, day=seconds / 86400, rng=rng)

    @property
    def sun(self) -> float:
        """Return the warmth of the day: -1 at 3 o'clock, 1 at 15 o'clock."""
        return math.sin(2 * math.pi * (self.hour - 9) / 24)

    def noisy(self, value: float, deviation: float, digits: int) -> float:
        """Return `value` as a sensor of this quality and resolution reads it."""
        return round(self.rng.gauss(value, deviation), digits)


Values = dict[str, Any]
Sensor = Callable[[Moment], Values]


def _dht22(now: Moment) -> Values:
    """Return °C and % relative humidity."""
    humidity = now.noisy(65 - 18 * now.sun, 0.8, 1)
    return {"temp": now.noisy(20 + 6 * now.sun, 0.2, 1), "humidity": min(99.9, max(5.0, humidity))}


def _bmp280(now: Moment) -> Values:
    """Return hPa, which swings with the weather over some days, and °C."""
    pressure = 1013 + 8 * math.sin(2 * math.pi * now.day / 3.7)
    return {"pressure": now.noisy(pressure, 0.1, 2), "temp": now.noisy(20.5 + 6 * now.sun, 0.1, 2)}


def _mh_z19(now: Moment) -> Values:
    """Return ppm CO₂: plants use it up by day."""
    return {"co2": int(now.noisy(620 - 200 * now.sun, 12, 0))}


def _soil(now: Moment) -> Values:
    """Return % moisture, which falls from one watering (6 o'clock) to the next."""
    since_watering = (now.hour - 6) % 24
    return {"moisture": now.noisy(48 - 0.7 * since_watering, 0.3, 1)}


def _relay(now: Moment) -> Values:
    """Return a fan's switch: on in the warm hours."""
    return {"state": "ON" if now.sun > 0.5 else "OFF"}


def _pump(now: Moment) -> Values:
    """Return the pump's switch: on for the first ten minutes of every hour."""
    return {"state": "ON" if now.hour % 1 < 1 / 6 else "OFF"}


def _unknown(now: Moment) -> Values:
    return {"value": now.noisy(50 + 10 * now.sun, 1, 2)}


SENSORS: dict[str, Sensor] = {
    "dht22": _dht22,
    "bmp280": _bmp280,
    "mh-z19": _mh_z19,
    "soil": _soil,
    "relay": _relay,
    "pump": _pump,
}


def sensor_of(component: str) -> Sensor:
    """Return the sensor of a component key: `dht22`, and `dht22-2` too, are a dht22."""
    for name, sensor in SENSORS.items():
        if component == name or component.startswith(f"{name}-"):
            return sensor
    return _unknown


def measure(component: str, when: datetime, rng: Random) -> dict[str, Values]:
    """Return what the component measures at `when` (aware), as the message carries it: {"value": {…}}."""
    return {"value": sensor_of(component)(Moment.at(when, rng))}
