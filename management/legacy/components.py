"""What is attached to the dump's devices, with its pins, before anything is written."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from devices.domain.pins import Pin, Pins, normalize

from .context import Context
from .dump import Row
from .tables import ATTACHED_COMPONENTS, DEVICE_PIN_CONFIGS

_NO_KEY = re.compile(r"[^A-Za-z0-9_.-]+")
_KEY_LENGTH = 63


@dataclass(slots=True)
class Attached:
    """A component as it is to be made."""

    row: Row
    key: str
    name: str
    type_key: str
    is_attached: bool
    pins: Pins = field(default_factory=dict)
    pin_rows: int = 0  # rows of device_pin_configs that are of it


def read_components(context: Context) -> dict[UUID, list[Attached]]:
    """The components by their devices, each with its pins, from both tables."""
    found: dict[UUID, list[Attached]] = {}
    for row in context.read(ATTACHED_COMPONENTS):
        uuid = context.device_of(ATTACHED_COMPONENTS, row)
        if uuid is not None:
            found.setdefault(uuid, []).append(_component(context, row, found.get(uuid, [])))
    functions = _PinFunctions(context, found)
    for row in context.read(DEVICE_PIN_CONFIGS):
        uuid = context.device_of(DEVICE_PIN_CONFIGS, row)
        if uuid is not None:
            functions.place(uuid, row)
    for components in found.values():
        for component in components:
            _name_the_rest(component)
    return found


def _component(context: Context, row: Row, others: list[Attached]) -> Attached:
    """Its key is the instance's name, where that can be one; else its type, numbered where there are several."""
    type_key, name = row["component_type"], (row["instance_name"] or "").strip()
    wanted = _NO_KEY.sub("-", name).strip("-._")[:_KEY_LENGTH] or type_key
    taken = {other.key for other in others}
    key = next(k for k in (wanted, *(f"{wanted[: _KEY_LENGTH - 4]}-{n}" for n in range(2, 1000))) if k not in taken)
    if name and key != name:
        context.report.of(ATTACHED_COMPONENTS.name).notes.append(
            f"line {row.line}: {name[:60]!r} is no key; the component is {key}. Messages that repeat the old name as"
            " instance_name are quarantined."
        )
    attached = row["attached"] is not False
    component = Attached(row, key, "" if name == key else name[:120], type_key, attached)
    if isinstance(row["pins"], Mapping):
        component.pins = dict(row["pins"])
    return component


class _PinFunctions:
    """Gives each row of the pins' functions to the component that it is of."""

    def __init__(self, context: Context, components: dict[UUID, list[Attached]]) -> None:
        self._context = context
        self._components = components
        self._report = context.report.of(DEVICE_PIN_CONFIGS.name)

    def place(self, uuid: UUID, row: Row) -> None:
        """Note the pin with its component; a pin that is of none, or of another line there, is reported."""
        try:
            ((line, pin),) = normalize({row["function"]: row["pin"]}).items()
        except ValueError as error:
            self._context.fail(DEVICE_PIN_CONFIGS, row, "function", str(error))
            return
        owners = self._owners(self._components.get(uuid, []), row, pin)
        if not owners:
            where = f"{uuid}, line {row.line}: pin {pin} is {line}"
            self._report.skip("a pin belongs to a component here, and this one is of none that is attached", where)
            return
        for component in owners:
            # A component's type as its function says which component it is, not which of its lines.
            named = "data" if line in (component.key.lower(), component.type_key.lower()) else line
            known = component.pins.get(named)
            if known is not None and known != pin:
                words = f"{component.key} has its line {named} on the pin {known} already."
                self._context.fail(DEVICE_PIN_CONFIGS, row, "function", words)
                return
            component.pins[named] = pin
        owners[0].pin_rows += 1

    def _owners(self, components: list[Attached], row: Row, pin: Pin) -> list[Attached]:
        """By the component's id or name; else those that have the pin; else the one that the function names."""
        if row["component_id"] is not None:
            return [c for c in components if c.row["id"] == row["component_id"]]
        if row["instance_name"] is not None:
            return [c for c in components if row["instance_name"] in (c.key, c.name)]
        having = [c for c in components if pin in _pins_of(c)]
        function = row["function"].strip().lower()
        named = [c for c in components if function in (c.key.lower(), c.type_key.lower())]
        return having or (named if len(named) == 1 else [])


def _pins_of(component: Attached) -> list[Pin]:
    listed = component.row["pins"] if isinstance(component.row["pins"], list) else []
    return [*listed, *component.pins.values()]


def _name_the_rest(component: Attached) -> None:
    """Pins that were listed without their lines, and that no function names."""
    listed = component.row["pins"] if isinstance(component.row["pins"], list) else []
    rest = [pin for pin in dict.fromkeys(listed) if pin not in component.pins.values()]
    names = (name for name in ("data", *(f"pin{n}" for n in range(2, 100))) if name not in component.pins)
    component.pins |= dict(zip(names, rest, strict=False))
