"""Devices as rows of a table: columns, cell formats, and the changes of a row.

A row refers to the device with its UUID, else its external id, else its CPU serial, else its name. An empty cell keeps
the present value, and components are added, never removed: a file made for another purpose destroys nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from uuid import UUID, uuid4

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _
from import_export import resources
from import_export.fields import Field

from devices.models import Component, Device
from devices.services import audit, audit_changes

from . import activation, import_lookup, registration
from .import_columns import (
    AttributesCell,
    IdentifierCell,
    ModelCell,
    PartsCell,
    PlaceCell,
    SecondsCell,
    TagsCell,
    UuidCell,
    YesCell,
)

COLUMNS = (
    *("uuid", "name", "external_id", "hardware_model", "place", "cpu_serial", "timeout_seconds", "active"),
    *("tags", "attributes", "components"),
)
# Attribute of the model → column of the table, where they differ.
_COLUMN_OF = {"parts": "components"}


class DeviceResource(resources.ModelResource):
    """Devices as rows. Call `load` first; rows are imported, or devices exported, in the tenant's schema."""

    uuid = Field("uuid", "uuid", widget=UuidCell())
    name = Field("name", "name", widget=IdentifierCell())
    external_id = Field("external_id", "external_id", widget=IdentifierCell())
    hardware_model = Field("hardware_model", "hardware_model", widget=ModelCell())
    place = Field("place", "place", widget=PlaceCell())
    cpu_serial = Field("cpu_serial", "cpu_serial", widget=IdentifierCell())
    timeout_seconds = Field("timeout_seconds", "timeout_seconds", widget=SecondsCell())
    active = Field("active", "active", widget=YesCell())
    tags = Field("tags", "tags", widget=TagsCell())
    attributes = Field("attributes", "attributes", widget=AttributesCell())
    components = Field("parts", "components", widget=PartsCell())

    class Meta:
        model = Device
        fields = COLUMNS
        import_order = export_order = COLUMNS
        import_id_fields: ClassVar[list[str]] = []
        skip_diff = True
        store_instance = True

    def load(self, rows: Sequence[Mapping[str, str]], *, acting_user: audit.Actor = None) -> None:
        """Load the lookup of the rows; changes are recorded for `acting_user`."""
        self.lookup = import_lookup.load_lookup(rows)
        self.acting_user = acting_user
        self.issued: list[registration.IssuedCredentials] = []
        self._seen: dict[tuple[str, str], int] = {}
        for name in ("hardware_model", "place", "components"):
            self.fields[name].widget.lookup = self.lookup

    def before_import_row(self, row: Any, **kwargs: Any) -> None:
        """Reject a second row for the same device within the table."""
        external_id = row.get("external_id", "")
        keys = [(name, row[name].lower()) for name in ("uuid", "cpu_serial", "name") if row.get(name)][:1]
        if not keys and not external_id:
            raise ValidationError({"name": _("A device must have a name.")})
        if external_id:
            keys = [*(key for key in keys if key[0] == "uuid"), ("external_id", external_id)]
        for key in keys:
            first = self._seen.setdefault(key, kwargs["row_number"])
            if first != kwargs["row_number"]:
                values = {"row": first}
                raise ValidationError(
                    {key[0]: _("Row %(row)d describes the same device: remove one of the two rows.") % values}
                )

    def get_or_init_instance(self, instance_loader: Any, row: Any) -> tuple[Device, bool]:
        """Return the device that the row refers to, or a new one."""
        found = self.lookup.match(
            import_lookup.as_uuid(row.get("uuid", "")),
            row.get("external_id", ""),
            row.get("cpu_serial", ""),
            row.get("name", ""),
        )
        device: Any = found
        if found is None:
            device = Device()
            device.uuid = None  # until the row gives one
        device.parts = {}
        device.before = {name: getattr(device, name) for name in COLUMNS[:-1]}
        return device, found is None

    def import_field(self, field: Any, instance: Any, row: Any, is_m2m: bool = False, **kwargs: Any) -> None:
        """Set the field; an empty cell keeps the present value."""
        if row.get(field.column_name):
            field.save(instance, row, is_m2m, **kwargs)

    def skip_row(self, instance: Any, original: Any, row: Any, import_validation_errors: Any = None) -> bool:
        """Return whether the row changes nothing."""
        if instance.pk is None:
            instance.changes = []
            return False
        there = self.lookup.parts.get(instance.pk, {})
        added = [key for key, kind in instance.parts.items() if there.get(key) != kind.key]
        changed = [name for name, value in instance.before.items() if getattr(instance, name) != value]
        instance.changes = changed + (["components"] if added else [])
        return not instance.changes and not import_validation_errors

    def validate_instance(
        self, instance: Any, import_validation_errors: Any = None, validate_unique: bool = True
    ) -> None:
        """Raise a ValidationError with all errors of the row by column."""
        errors = dict(import_validation_errors or {})
        if not instance.name:
            errors["name"] = [_("A device must have a name.")]
        if instance.pk is None and instance.uuid in self.lookup.taken:
            errors["uuid"] = [_("The device UUID %(uuid)s is already registered.") % {"uuid": instance.uuid}]
        if self.lookup.has_other_with(instance.external_id, instance):
            errors["external_id"] = [_("Another device has this external id.")]
        if "parts" not in errors and (refusal := self._refused_parts(instance)):
            errors["parts"] = [refusal]
        try:
            # Without the fields that would query the database for each row.
            instance.clean_fields(exclude={*errors, "uuid", "hardware_model", "place", "id"})
        except ValidationError as error:
            errors = error.update_error_dict(errors)
        if errors:
            raise ValidationError({_COLUMN_OF.get(str(name), str(name)): error for name, error in errors.items()})

    def save_instance(self, instance: Any, is_create: bool, row: Any, **kwargs: Any) -> None:
        """Save the device through the services. Does nothing in a dry run. Raises SecretsUnavailable."""
        if kwargs.get("dry_run"):
            return
        if is_create:
            self._register(instance, kwargs.get("new_uuid"))
        else:
            self._change(instance)

    def save_m2m(self, instance: Any, row: Any, **kwargs: Any) -> None:
        """Do nothing: components are saved with the device."""

    def _refused_parts(self, device: Any) -> str:
        there = self.lookup.parts.get(device.pk, {})
        allowed = self.lookup.allowed.get(device.hardware_model.pk, set()) if device.hardware_model else set()
        for key, kind in device.parts.items():
            if there.get(key, kind.key) != kind.key:
                values = {"key": key, "there": there[key], "kind": kind.key}
                return _("The component %(key)s has the type %(there)s and cannot be changed to %(kind)s.") % values
            if key not in there and allowed and kind.pk not in allowed:
                values = {"model": device.hardware_model, "kind": kind.key}
                return _("%(model)s cannot have a component of type %(kind)s.") % values
        return ""

    def _register(self, wanted: Any, new_uuid: UUID | None) -> None:
        device, issued = registration.register_device(
            name=wanted.name,
            uuid=wanted.uuid or new_uuid or uuid4(),
            is_uuid_confirmed=wanted.uuid is None,
            cpu_serial=wanted.cpu_serial,
            hardware_model=wanted.hardware_model,
            timeout_seconds=wanted.timeout_seconds,
            place=wanted.place,
            external_id=wanted.external_id,
            tags=wanted.tags,
            attributes=wanted.attributes,
            components=wanted.parts,
            acting_user=self.acting_user,
        )
        if not wanted.active:
            activation.set_active(device, False, acting_user=self.acting_user)
        self.issued.append(issued)
        self.lookup.add(device)
        wanted.pk, wanted.uuid = device.pk, device.uuid

    def _change(self, device: Any) -> None:
        columns = [name for name in device.changes if name not in ("components", "active")]
        before = audit_changes.snapshot(Device.objects.get(pk=device.pk)) if columns else {}
        if columns:
            device.save(update_fields=columns)
            self.lookup.add(device)
        there = self.lookup.parts.get(device.pk, {})
        for key, kind in device.parts.items():
            if key not in there:
                component = Component(device=device, key=key, component_type=kind)
                component.full_clean()
                component.save()
        if columns or "components" in device.changes:
            changes = audit_changes.difference(before, audit_changes.snapshot(device)) if columns else None
            audit.record(self.acting_user, "change", device, ", ".join([*columns, *device.parts]), changes=changes)
        if "active" in device.changes:
            activation.set_active(device, device.active, acting_user=self.acting_user)
