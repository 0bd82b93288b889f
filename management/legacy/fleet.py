"""Devices with their components, their keys and their accounts at the broker."""

from uuid import UUID

from django.core.exceptions import ValidationError

from devices.models import Component, Device, HardwareModel
from devices.services import audit
from devices.services.broker import accounts
from devices.services.provisioning import activation, registration
from tenants.infrastructure.chunks import chunks
from tenants.models import DeviceRoute
from tenants.services import limits

from . import hardware, people
from .components import AttachedComponent, read_components
from .context import Context, row_of
from .dump import Row
from .people import People
from .tables import ATTACHED_COMPONENTS, DEVICE_PIN_CONFIGS, DEVICES

# The broker accounts of so many devices are created together.
_AT_ONCE = 100
_NOT_TAKEN = "its device or component is not imported"


def import_fleet(context: Context) -> None:
    """Import everything but the telemetry, in the order of dependencies. Raises DumpError."""
    hardware.import_hardware(context)
    devices = _read_devices(context)
    attached = read_components(context)
    known = people.read_people(context)
    for uuid, row in devices.items():
        if row["owner_email"]:
            known.owners[uuid] = row["owner_email"]
            known.add(row["owner_email"], people.Role.OPERATOR, None)
    if people.register_aliases(context, known.owners.values()) and not context.is_rehearsal:
        limits.publish_changes([context.options.tenant.schema_name])
    people.import_people(context, known)
    for chunk in chunks(devices.items(), _AT_ONCE):
        with accounts.batch_grants():
            for uuid, row in chunk:
                _import_device(context, uuid, row, attached.get(uuid, []), known)


def _read_devices(context: Context) -> dict[UUID, Row]:
    devices: dict[UUID, Row] = {}
    for row in context.read(DEVICES):
        uuid = row["uuid"]
        if uuid in devices or (row["id"] is not None and row["id"].lower() in context.uuids):
            context.fail(DEVICES, row, "uuid", f"{uuid} or its id occurs twice.")
            continue
        devices[uuid] = row
        context.uuids[str(uuid)] = uuid
        if row["id"] is not None:
            context.uuids[row["id"].lower()] = uuid
    return devices


def _import_device(context: Context, uuid: UUID, row: Row, attached: list[AttachedComponent], known: People) -> None:
    taken = False
    with row_of(context, DEVICES, row) as report:
        device = Device.objects.filter(uuid=uuid).first()
        created = device is None
        if device is None:
            device = _register(context, uuid, row, known)
        for component in attached:
            _attach(context, device, component)
        if created and row["active"] is False and not context.is_rehearsal:
            activation.set_active(device, False)
        report.created += created
        report.unchanged += not created
        taken = True
    for component in attached if not taken else ():
        words = f"line {component.row.line}: {component.key}"
        context.report.table(ATTACHED_COMPONENTS.name).skip(_NOT_TAKEN, words)
        _count_pins(context, component, "skipped")


def _register(context: Context, uuid: UUID, row: Row, known: People) -> Device:
    """Register a device. Raises ValidationError."""
    if DeviceRoute.objects.filter(device_uuid=uuid).exists():
        raise ValidationError(f"The device UUID {uuid} is already registered in another tenant; remove the row.")
    owner = known.owners.get(uuid)
    secrets = context.options.secrets.secret_of(uuid, owner)
    if secrets is None and not context.options.new_keys:
        whose = f"its owner {owner}" if owner else "it; it has no owner"
        raise ValidationError(f"There is no secret of {whose}; add a line to the file of --secrets, or use --new-keys.")
    name, serial, model = _name(uuid, row, known), row["cpu_serial"] or "", _model(context, row)
    if context.is_rehearsal:
        return registration.make_rows(
            name=name, uuid=uuid, cpu_serial=serial, hardware_model=model, is_uuid_confirmed=True
        )
    device, _ = registration.register_device(
        name=name,
        uuid=uuid,
        is_uuid_confirmed=True,
        cpu_serial=serial,
        hardware_model=model,
        secret=secrets.secret if secrets else None,
        mqtt_password=secrets.mqtt_password if secrets else None,
    )
    audit.record(None, "import", device, _history(uuid, row, known))
    return device


def _model(context: Context, row: Row) -> HardwareModel | None:
    if row["hardware_variant_id"] is None:
        return None
    model = context.models.get(row["hardware_variant_id"])
    if model is None:
        raise ValidationError(f"hardware_variant_id: {row['hardware_variant_id']!r} is not in hardware_variants.csv.")
    return model


def _name(uuid: UUID, row: Row, known: People) -> str:
    nicknames = known.nicknames.get(uuid)
    return row["name"] or (nicknames[0][1] if nicknames else None) or row["cpu_serial"] or str(uuid)


def _history(uuid: UUID, row: Row, known: People) -> str:
    """Return a note with the device's former owners and nicknames."""
    owner = known.owners.get(uuid)
    names = [f"{nickname!r} by {address}" for address, nickname in known.nicknames.get(uuid, ())]
    parts = ["from the old server", f"owner {owner}" if owner else "", f"called {', '.join(names)}" if names else ""]
    return "; ".join(part for part in parts if part)


def _attach(context: Context, device: Device, wanted: AttachedComponent) -> None:
    """Attach a missing component; report a refused one without an effect on the others."""
    with row_of(context, ATTACHED_COMPONENTS, wanted.row) as report:
        if Component.objects.filter(device=device, key=wanted.key).exists():
            report.unchanged += 1
            _count_pins(context, wanted, "unchanged")
            return
        component_type = hardware.component_type(context, wanted.type_key)
        if component_type is None:
            raise ValidationError(
                f"{wanted.type_key[:80]!r} cannot be a component type's key, which is part of topics."
            )
        component = Component(
            device=device,
            key=wanted.key,
            name=wanted.name,
            component_type=component_type,
            attached=wanted.is_attached,
            pins=wanted.pins,
        )
        component.full_clean()
        component.save()
        report.created += 1
        _count_pins(context, wanted, "created")
        return
    _count_pins(context, wanted, "skipped")


def _count_pins(context: Context, component: AttachedComponent, became: str) -> None:
    """Count the component's rows of device_pin_configs with the component's result."""
    report = context.report.table(DEVICE_PIN_CONFIGS.name)
    report.created += component.pin_rows if became == "created" else 0
    report.unchanged += component.pin_rows if became == "unchanged" else 0
    for _ in range(component.pin_rows if became == "skipped" else 0):
        report.skip(_NOT_TAKEN, f"of {component.key}, line {component.row.line} of attached_components")
