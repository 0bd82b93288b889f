"""The devices of the corpus, and the table of them in the documentation.

A device of the bridge has `messages`, each a topic and a payload; any other one has a `message`, the object that a
program of one's own signs. `means` is what it measures: path → [value, unit]. `set` says what to set where that is
not stored without editing.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.processes import ROOT

PAGE = ROOT / "docs" / "devices.md"
BEGIN, END = "<!-- table of tests/field -->\n", "<!-- end of the table -->\n"


@dataclass(frozen=True)
class FieldDevice:
    """A device of the corpus."""

    name: str
    messages: list[tuple[str, bytes]]
    message: dict[str, Any]
    means: dict[str, tuple[Any, str]]
    to_set: str

    @property
    def is_bridged(self) -> bool:
        return bool(self.messages)

    def row(self) -> str:
        """Return the device's row of the table."""
        connects = f"bridge, `{dialect_of(self)}`" if self.is_bridged else "its program signs the object"
        gives = ", ".join(f"`{path}`{f' {unit}' if unit else ''}" for path, (_value, unit) in self.means.items())
        return f"| {self.name} | {connects} | {gives} | {self.to_set or 'nothing'} |\n"


def load_devices() -> list[FieldDevice]:
    """Return the devices of the corpus."""
    return [
        FieldDevice(
            given["device"],
            [(topic, _payload(payload)) for topic, payload in given.get("messages", ())],
            given.get("message", {}),
            {path: (value, unit) for path, (value, unit) in given["means"].items()},
            given.get("set", ""),
        )
        for given in json.loads((Path(__file__).parent / "devices.json").read_text())
    ]


def dialect_of(device: FieldDevice) -> str:
    """Return the dialect of a bridged device."""
    from devices.bridge.dialects import Dialects

    (name,) = {report.dialect for topic, payload in device.messages for report in Dialects().read(topic, payload, 0.0)}
    return name


def table(devices: list[FieldDevice]) -> str:
    """Return the table of the documentation."""
    heading = "| device | how it connects | what it gives | what to set |\n|---|---|---|---|\n"
    return BEGIN + heading + "".join(device.row() for device in devices) + END


def write_page() -> None:
    """Write the table into the documentation."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + table(load_devices()) + rest.partition(END)[2])


def _payload(payload: Any) -> bytes:
    return payload.encode() if isinstance(payload, str) else json.dumps(payload).encode()


if __name__ == "__main__":
    write_page()
