"""What a tenant's hardware is: units, hardware models, component types and what they measure."""

from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from devices.services import paths, units

from .base import SpecInput, validate_key


class Unit(SpecInput):
    """A unit of measurement. The symbol is what people read; the UCUM code is what conversions are made from."""

    symbol = models.CharField(_("symbol"), max_length=24, unique=True)
    name = models.CharField(_("name"), max_length=80)
    quantity = models.CharField(_("quantity"), max_length=80, help_text=_("For example temperature or pressure."))
    ucum = models.CharField(_("UCUM code"), max_length=40, help_text=_("For example Cel, %, hPa or [degF]."))

    class Meta:
        ordering: ClassVar = ["quantity", "symbol"]
        verbose_name = _("unit")
        verbose_name_plural = _("units")

    def __str__(self) -> str:
        return self.symbol

    def clean(self) -> None:
        try:
            units.parse(self.ucum)
        except units.UnknownUnit as error:
            raise ValidationError({"ucum": str(error)}) from error


class HardwareModel(SpecInput):
    """A board and its revision, and which component types may be attached to it."""

    name = models.CharField(_("name"), max_length=80)
    version = models.CharField(_("version"), max_length=40, help_text=_("What the device sends as hardware_version."))
    allowed_component_types: models.ManyToManyField = models.ManyToManyField(
        "ComponentType",
        blank=True,
        related_name="hardware_models",
        verbose_name=_("allowed component types"),
        help_text=_("None chosen: every type is allowed."),
    )
    timeout_seconds = models.PositiveIntegerField(
        _("time-out in seconds"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_("How long its devices may be silent; empty: from what they report, and the tenant's default."),
    )

    class Meta:
        ordering: ClassVar = ["name", "version"]
        constraints: ClassVar = [
            # A device's hardware_version is compared with exactly one row.
            models.UniqueConstraint(fields=["name", "version"], name="hardware_model_once"),
        ]
        verbose_name = _("hardware model")
        verbose_name_plural = _("hardware models")

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class ComponentType(SpecInput):
    """A kind of sensor or actuator, for example dht22, with the metrics that its messages hold."""

    key = models.CharField(_("key"), max_length=63, unique=True, validators=[validate_key])
    name = models.CharField(_("name"), max_length=80)
    description = models.TextField(_("description"), blank=True)
    expected_interval = models.PositiveIntegerField(
        _("expected interval in seconds"),
        default=60,
        validators=[MinValueValidator(1)],
        help_text=_("How often its components report; after two missed reports one is stale."),
    )

    class Meta:
        ordering: ClassVar = ["key"]
        verbose_name = _("component type")
        verbose_name_plural = _("component types")

    def __str__(self) -> str:
        return self.key


class Metric(SpecInput):
    """One value in a component's message: where it is found, what it is, in which unit it is kept."""

    class ValueType(models.TextChoices):
        NUMBER = "number", _("number")
        BOOLEAN = "boolean", _("boolean")
        TEXT = "text", _("text")

    component_type = models.ForeignKey(
        ComponentType, on_delete=models.CASCADE, related_name="metrics", verbose_name=_("component type")
    )
    key = models.CharField(_("key"), max_length=63, validators=[validate_key])
    name = models.CharField(_("name"), max_length=80, blank=True)
    path = models.CharField(
        _("path"), max_length=200, help_text=_("Dotted (value.temp), or a JSON Pointer (/probes/0/t).")
    )
    value_type = models.CharField(_("value type"), max_length=8, choices=ValueType.choices, default=ValueType.NUMBER)
    unit = models.ForeignKey(
        Unit, on_delete=models.PROTECT, null=True, blank=True, related_name="+", verbose_name=_("unit")
    )
    sent_unit = models.ForeignKey(
        Unit,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("unit as sent"),
        help_text=_("Where the device sends another unit than the one kept; converted as value × factor + offset."),
    )
    minimum = models.FloatField(_("minimum"), null=True, blank=True, help_text=_("In the unit kept, inclusive."))
    maximum = models.FloatField(_("maximum"), null=True, blank=True, help_text=_("In the unit kept, inclusive."))
    true_value = models.CharField(_("word for true"), max_length=40, blank=True, help_text=_("For example ON."))
    false_value = models.CharField(_("word for false"), max_length=40, blank=True, help_text=_("For example OFF."))
    # Worked out from the units when the metric is saved, never per message.
    factor = models.FloatField(_("factor"), default=1.0, editable=False)
    offset = models.FloatField(_("offset"), default=0.0, editable=False)

    class Meta:
        ordering: ClassVar = ["component_type", "key"]
        constraints: ClassVar = [
            # A series is named by component and metric key.
            models.UniqueConstraint(fields=["component_type", "key"], name="metric_once_per_type"),
            models.CheckConstraint(
                condition=models.Q(minimum__isnull=True)
                | models.Q(maximum__isnull=True)
                | models.Q(minimum__lte=models.F("maximum")),
                name="metric_range_in_order",
            ),
        ]
        verbose_name = _("metric")
        verbose_name_plural = _("metrics")

    def __str__(self) -> str:
        return f"{self.component_type_id and self.component_type.key}.{self.key}"

    def clean(self) -> None:
        errors = self._clean_path() | self._clean_type() | self._clean_units()
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            errors["minimum"] = _("The minimum is greater than the maximum.")
        if errors:
            raise ValidationError(errors)

    def _clean_path(self) -> dict[str, Any]:
        try:
            paths.parse(self.path)
        except ValueError as error:
            return {"path": str(error)}
        return {}

    def _clean_type(self) -> dict[str, Any]:
        if self.value_type == self.ValueType.NUMBER:
            if self.true_value or self.false_value:
                return {"true_value": _("Words for true and false belong to a boolean metric.")}
            return {}
        if self.unit_id or self.sent_unit_id or self.minimum is not None or self.maximum is not None:
            return {"value_type": _("Units and ranges belong to a number.")}
        if bool(self.true_value) != bool(self.false_value):
            return {"false_value": _("Give both words, for true and for false, or neither.")}
        return {}

    def _clean_units(self) -> dict[str, Any]:
        if self.sent_unit_id and not self.unit_id:
            return {"unit": _("Choose the unit to convert to.")}
        try:
            self._work_out_conversion()
        except units.Incompatible as error:
            return {"sent_unit": str(error)}
        return {}

    def _work_out_conversion(self) -> None:
        self.factor, self.offset = 1.0, 0.0
        if self.unit and self.sent_unit and self.sent_unit_id != self.unit_id:
            self.factor, self.offset = units.conversion(self.sent_unit.ucum, self.unit.ucum)

    def save(self, *args: Any, **kwargs: Any) -> None:
        self._work_out_conversion()
        super().save(*args, **kwargs)
