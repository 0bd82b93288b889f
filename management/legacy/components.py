"""Components of the dump's devices with their pins, read before anything is written."""

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
class AttachedComponent:
    """A component to be created."""

    row: Row
    key: str
    name: str
    type_key: str
    is_attached: bool
    pins: Pins = field(default_factory=dict)
    pin_rows: int = 0  # its rows of device_pin_configs


def read_components(context: Context) -> dict[UUID, list[AttachedComponent]]:
    """Return the components of each device, with their pins, from both tables."""
    found: dict[UUID, list[AttachedComponent]] = {}
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


def _component(context: Context, row: Row, others: list[AttachedComponent]) -> AttachedComponent:
    """Return the component. Its key is the instance's name when that is a valid key, else its type, with a number."""
    type_key, name = row["component_type"], (row["instance_name"] or "").strip()
    wanted = _NO_KEY.sub("-", name).strip("-._")[:_KEY_LENGTH] or type_key
    taken = {other.key for other in others}
    key = next(k for k in (wanted, *(f"{wanted[: _KEY_LENGTH - 4]}-{n}" for n in range(2, 1000))) if k not in taken)
    if name and key != name:
        context.report.table(ATTACHED_COMPONENTS.name).notes.append(
            f"line {row.line}: {name[:60]!r} is not a valid key; the component is {key}. Messages that repeat the old"
            " name as instance_name are quarantined."
        )
    attached = row["attached"] is not False
    component = AttachedComponent(row, key, "" if name == key else name[:120], type_key, attached)
    if isinstance(row["pins"], Mapping):
        component.pins = dict(row["pins"])
    return component


class _PinFunctions:
    """Assigns each row of the pins' functions to its component."""

    def __init__(self, context: Context, components: dict[UUID, list[AttachedComponent]]) -> None:
        self._context = context
        self._components = components
        self._report = context.report.table(DEVICE_PIN_CONFIGS.name)

    def place(self, uuid: UUID, row: Row) -> None:
        """Assign the pin to its component; report a pin without a component, or one of another line."""
        try:
            ((line, pin),) = normalize({row["function"]: row["pin"]}).items()
        except ValueError as error:
            self._context.fail(DEVICE_PIN_CONFIGS, row, "function", str(error))
            return
        owners = self._owners(self._components.get(uuid, []), row, pin)
        if not owners:
            where = f"{uuid}, line {row.line}: pin {pin} is {line}"
            self._report.skip("a pin must belong to a component, and no attached component has this one", where)
            return
        for component in owners:
            # A function that is the component's type names the component, not one of its lines.
            named = "data" if line in (component.key.lower(), component.type_key.lower()) else line
            known = component.pins.get(named)
            if known is not None and known != pin:
                words = f"{component.key} already has its line {named} on the pin {known}."
                self._context.fail(DEVICE_PIN_CONFIGS, row, "function", words)
                return
            component.pins[named] = pin
        owners[0].pin_rows += 1

    def _owners(self, components: list[AttachedComponent], row: Row, pin: Pin) -> list[AttachedComponent]:
        """Return the component by its id or name; else those with the pin; else the one that the function names."""
        if row["component_id"] is not None:
            return [c for c in components if c.row["id"] == row["component_id"]]
        if row["instance_name"] is not None:
            return [c for c in components if row["instance_name"] in (c.key, c.name)]
        having = [c for c in components if pin in _pins_of(c)]
        function = row["function"].strip().lower()
        named = [c for c in components if function in (c.key.lower(), c.type_key.lower())]
        return having or (named if len(named) == 1 else [])


def _pins_of(component: AttachedComponent) -> list[Pin]:
    listed = component.row["pins"] if isinstance(component.row["pins"], list) else []
    return [*listed, *component.pins.values()]


def _name_the_rest(component: AttachedComponent) -> None:
    """Name the pins that were listed without their lines and that no function names."""
    listed = component.row["pins"] if isinstance(component.row["pins"], list) else []
    rest = [pin for pin in dict.fromkeys(listed) if pin not in component.pins.values()]
    names = (name for name in ("data", *(f"pin{n}" for n in range(2, 100))) if name not in component.pins)
    component.pins |= dict(zip(names, rest, strict=False))
