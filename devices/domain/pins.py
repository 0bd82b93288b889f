"""Pins of a component: the board's pin of each of its lines. Pure.

`{"data": 4}` or `{"sda": 2, "scl": 3}`: names of lines in lower case, and pins as whole numbers (GPIO numbers) or,
if the board names them otherwise, as text.
"""

import re
from collections.abc import Mapping
from typing import Any

from tenants.infrastructure.error_values import shown

Pin = int | str
Pins = dict[str, Pin]

# Lines that several components share: those of I2C, SPI (but not its chip select) and 1-Wire, and power.
SHARED = frozenset({"sda", "scl", "mosi", "miso", "sclk", "sck", "clk", "1-wire", "onewire", "vcc", "3v3", "5v", "gnd"})
_MAX_LINES = 40
_MAX_NUMBER = 999
_LINE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,31}")
_NUMBER = re.compile(r"(?:gpio|bcm)?[ _-]?([0-9]{1,3})", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_./-]{0,15}")


def normalize(value: Any) -> Pins:
    """Return the pins in their stored form: GPIO4, "4" and 4 are one pin. Raises ValueError with the reason."""
    if not isinstance(value, Mapping):
        raise ValueError(f'{shown(value)} is not an object of lines and pins, such as {{"data": 4}}.')
    if len(value) > _MAX_LINES:
        raise ValueError(f"A component can have at most {_MAX_LINES} pins.")
    pins: Pins = {}
    for line, pin in value.items():
        name = str(line).strip().lower().replace(" ", "_")
        if not _LINE.fullmatch(name):
            raise ValueError(f"{shown(line)} is not a valid name of a line: use 1 to 32 letters, digits and . _ -")
        if name in pins:
            raise ValueError(f"The line {name} must be listed only once.")
        pins[name] = normalize_pin(pin)
    return pins


def normalize_pin(pin: Any) -> Pin:
    """Return the pin in its stored form. Raises ValueError."""
    if isinstance(pin, int) and not isinstance(pin, bool) and 0 <= pin <= _MAX_NUMBER:
        return pin
    text = pin.strip() if isinstance(pin, str) else ""
    if number := _NUMBER.fullmatch(text):
        return int(number[1])
    if _NAME.fullmatch(text):
        return text.upper()
    raise ValueError(f"{shown(pin)} is not a valid pin: use its GPIO number (4 or GPIO4) or its name (A0).")


def find_conflict(pins: Mapping[str, Pin], others: Mapping[str, Mapping[str, Pin]]) -> tuple[Pin, str] | None:
    """Return (pin, name of the other component) of the first pin that two components cannot share, or None.

    `others` are the other components' pins by name. Two components can share a pin for the same line of a bus.
    """
    for line, pin in pins.items():
        for name, other in others.items():
            for other_line, other_pin in other.items():
                if other_pin == pin and not (line == other_line and line in SHARED):
                    return pin, name
    return None


def find_duplicate(pins: Mapping[str, Pin]) -> Pin | None:
    """Return a pin that two lines of the component use, or None."""
    seen: set[Pin] = set()
    for pin in pins.values():
        if pin in seen:
            return pin
        seen.add(pin)
    return None
