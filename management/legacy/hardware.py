"""Import of hardware: variants become hardware models; component types are created by name."""

from devices.models import ComponentType, HardwareModel
from devices.models.base import announce_change

from .context import Context, row_of
from .dump import Row
from .tables import HARDWARE_VARIANTS, SUPPORTED_COMPONENTS


def import_hardware(context: Context) -> None:
    """Import each model with its allowed component types, in one transaction."""
    supported = _supported(context)
    for row in context.read(HARDWARE_VARIANTS):
        with row_of(context, HARDWARE_VARIANTS, row) as report:
            if row["id"] in context.models:
                context.fail(HARDWARE_VARIANTS, row, "id", f"{row['id']!r} occurs twice.")
                continue
            model, created = _model(row)
            _allow(context, model, created, supported.get(row["id"], []))
            context.models[row["id"]] = model
            report.created += created
            report.unchanged += not created
    known = context.models.keys()
    for variant, rows in supported.items():
        for line in rows if variant not in known else ():
            words = f"{variant!r} is not a row of hardware_variants.csv; add it there, or remove the row."
            context.fail(SUPPORTED_COMPONENTS, line, "hardware_variant_id", words)


def _supported(context: Context) -> dict[str, list[Row]]:
    supported: dict[str, list[Row]] = {}
    for row in context.read(SUPPORTED_COMPONENTS):
        supported.setdefault(row["hardware_variant_id"], []).append(row)
    return supported


def _model(row: Row) -> tuple[HardwareModel, bool]:
    found = HardwareModel.objects.filter(name=row["name"], version=row["version"]).first()
    if found is not None:
        return found, False
    model = HardwareModel(name=row["name"], version=row["version"])
    model.full_clean()
    model.save()
    return model, True


def _allow(context: Context, model: HardwareModel, created: bool, rows: list[Row]) -> None:
    """Allow the types. An existing model that allows every type continues to do so."""
    report = context.report.table(SUPPORTED_COMPONENTS.name)
    allowed = set(model.allowed_component_types.values_list("pk", flat=True))
    takes_all = not created and not allowed
    for row in rows:
        found = component_type(context, row["component_type"])
        if found is None:
            words = f"{row['component_type'][:80]!r} cannot be a component type's key, which is part of topics."
            context.fail(SUPPORTED_COMPONENTS, row, "component_type", words)
        elif takes_all or found.pk in allowed:
            report.unchanged += 1
        else:
            model.allowed_component_types.add(found)
            allowed.add(found.pk)
            report.created += 1
            announce_change()


def component_type(context: Context, key: str) -> ComponentType | None:
    """Return the type with that key, created when missing; None for an invalid key."""
    if key not in context.types:
        found = ComponentType.objects.filter(key=key).first()
        if found is None:
            found = ComponentType(key=key, name=key[:80])
            if not _is_valid(found):
                return None
            found.save()
            context.report.table(SUPPORTED_COMPONENTS.name).notes.append(
                f"the component type {key} is new and has no metrics; its values are stored under their paths."
            )
        context.types[key] = found
    return context.types[key]


def _is_valid(found: ComponentType) -> bool:
    from django.core.exceptions import ValidationError

    try:
        found.full_clean()
    except ValidationError:
        return False
    return True
