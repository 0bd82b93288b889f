"""Metadata of a tenant's hardware: units, hardware models, component types and metrics."""

from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models, transaction
from django.utils.translation import gettext_lazy as _

from devices.domain import paths, specs, text_values, units
from tenants.models.base import CountedModel

from .base import SpecInput, validate_key, validate_words
from .entry_lists import EntryListFields


class Unit(SpecInput):
    """A unit of measurement. People read the symbol; conversions use the UCUM code."""

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
        """Validate the fields together; raises ValidationError."""
        try:
            units.parse(self.ucum)
        except units.UnknownUnit as error:
            raise ValidationError({"ucum": str(error)}) from error
        for metric in self._metrics():
            try:
                metric.work_out_conversion(changed=self)
            except units.IncompatibleUnits as error:
                values = {"metric": metric, "error": error}
                raise ValidationError({"ucum": _("The metric %(metric)s uses it: %(error)s") % values}) from error

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save it, and the conversions of the affected metrics, in one transaction."""
        with transaction.atomic():
            super().save(*args, **kwargs)
            for metric in self._metrics():
                metric.save(update_fields=Metric.DERIVED)

    def _metrics(self) -> "list[Metric]":
        """Return the metrics that convert from or to it, and those whose messages may name any unit."""
        if self._state.adding:
            uses = ~models.Q(unit_path="")
        else:
            uses = models.Q(unit=self) | models.Q(sent_unit=self) | ~models.Q(unit_path="")
        return list(Metric.objects.filter(uses).select_related("component_type", "unit", "sent_unit"))


class HardwareModel(CountedModel, SpecInput):
    """A board and its revision, with the component types that it may have."""

    quota = "max_hardware_models"

    name = models.CharField(_("name"), max_length=80)
    version = models.CharField(
        _("version"), max_length=40, help_text=_("Value of hardware_version in messages of the device.")
    )
    allowed_component_types: models.ManyToManyField = models.ManyToManyField(
        "ComponentType",
        blank=True,
        related_name="hardware_models",
        verbose_name=_("allowed component types"),
        help_text=_("If none is selected, every type is allowed."),
    )
    timeout_seconds = models.PositiveIntegerField(
        _("timeout in seconds"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_(
            "Seconds without a message until a device of this model times out. If empty, a value derived from the"
            " reporting interval and the tenant's default."
        ),
    )
    text_wills = models.BooleanField(
        _("texts as wills"),
        default=False,
        db_default=False,
        help_text=_(
            "Accept a fixed text as the will, for firmware that cannot send JSON: Offline, false, an empty message and"
            " the like."
        ),
    )

    class Meta:
        ordering: ClassVar = ["name", "version"]
        constraints: ClassVar = [
            # A device's hardware_version is compared with one row.
            models.UniqueConstraint(fields=["name", "version"], name="hardware_model_once"),
        ]
        verbose_name = _("hardware model")
        verbose_name_plural = _("hardware models")

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class ComponentType(EntryListFields, CountedModel, SpecInput):
    """A type of sensor or actuator, for example dht22, with the metrics of its messages."""

    quota = "max_component_types"

    class Unmapped(models.TextChoices):
        """The treatment of unmapped values."""

        KEEP = specs.KEEP, _("store them under their path")
        IGNORE = specs.IGNORE, _("ignore them")
        QUARANTINE = specs.QUARANTINE, _("quarantine the message")

    class InvalidValues(models.TextChoices):
        """The treatment of values that a metric rejects."""

        REFUSE_VALUE = specs.REFUSE_VALUE, _("quarantine the value, store the others")
        REFUSE_MESSAGE = specs.REFUSE_MESSAGE, _("quarantine the message")

    key = models.CharField(_("key"), max_length=63, unique=True, validators=[validate_key])
    name = models.CharField(_("name"), max_length=80)
    description = models.TextField(_("description"), blank=True)
    expected_interval = models.PositiveIntegerField(
        _("expected interval in seconds"),
        default=60,
        validators=[MinValueValidator(1)],
        help_text=_("Interval at which its components report. A component is stale after two missed reports."),
    )
    unmapped = models.CharField(
        _("values without a metric"),
        max_length=10,
        choices=Unmapped.choices,
        default=Unmapped.KEEP,
        help_text=_(
            "Stored values have no unit. They are assigned to a metric when the metric is mapped from an example "
            "message."
        ),
    )
    invalid_values = models.CharField(
        _("values that a metric rejects"),
        max_length=14,
        choices=InvalidValues.choices,
        default=InvalidValues.REFUSE_VALUE,
        help_text=_("A message of which no value is valid is quarantined as a whole in either case."),
    )

    class Meta:
        ordering: ClassVar = ["key"]
        verbose_name = _("component type")
        verbose_name_plural = _("component types")

    def __str__(self) -> str:
        return self.key


class Metric(CountedModel, SpecInput):
    """A value in a component's message: its path, its type, and its stored unit."""

    quota = "max_metrics"

    class ValueType(models.TextChoices):
        NUMBER = "number", _("number")
        BOOLEAN = "boolean", _("boolean")
        TEXT = "text", _("text")

    class NumberFormat(models.TextChoices):
        """The form in which a number metric takes numbers that are sent as text."""

        POINT = text_values.POINT, _("with a decimal point: 21.5")
        COMMA = text_values.COMMA, _("with a decimal comma: 21,5")
        JSON = text_values.JSON, _("none: JSON numbers only")

    class SentinelTreatment(models.TextChoices):
        """The treatment of sentinels."""

        SKIP = text_values.SKIP, _("give no value, as null")
        REFUSE = text_values.REFUSE, _("refuse the value")

    component_type = models.ForeignKey(
        ComponentType, on_delete=models.CASCADE, related_name="metrics", verbose_name=_("component type")
    )
    key = models.CharField(_("key"), max_length=63, validators=[validate_key])
    name = models.CharField(_("name"), max_length=80, blank=True)
    path = models.CharField(
        _("path"),
        max_length=200,
        help_text=_(
            "A dotted path (value.temp) or a JSON Pointer (/probes/0/t). A dotted path can select: "
            "list[name=P1].value, tags.*.temp."
        ),
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
        help_text=_(
            "Only if the device sends another unit than the stored one. The value is converted: value × factor + "
            "offset."
        ),
    )
    unit_path = models.CharField(
        _("path of the unit"),
        max_length=200,
        blank=True,
        help_text=_(
            "The path of the unit's name in the message (TempUnit: C or F). If the message has none, the sent "
            "unit applies."
        ),
    )
    minimum = models.FloatField(_("minimum"), null=True, blank=True, help_text=_("In the stored unit, inclusive."))
    maximum = models.FloatField(_("maximum"), null=True, blank=True, help_text=_("In the stored unit, inclusive."))
    true_value = models.CharField(
        _("texts for true"),
        max_length=200,
        blank=True,
        validators=[validate_words],
        help_text=_(
            "Words with commas between them, for example ON, running. If empty: on, true, 1, open, yes, y, 켜짐, 열림."
        ),
    )
    false_value = models.CharField(
        _("texts for false"),
        max_length=200,
        blank=True,
        validators=[validate_words],
        help_text=_(
            "Words with commas between them, for example OFF, idle. If empty: off, false, 0, closed, no, n, 꺼짐, 닫힘."
        ),
    )
    number_format = models.CharField(
        _("numbers sent as text"),
        max_length=5,
        choices=NumberFormat.choices,
        default=NumberFormat.POINT,
        db_default=NumberFormat.POINT,
        help_text=_(
            "A unit after the number must be the stored one. If the unit varies, the path of the unit must be the path"
            " of the value."
        ),
    )
    sentinels = models.CharField(
        _("sentinels"),
        max_length=200,
        blank=True,
        default="",
        db_default="",
        validators=[validate_words],
        help_text=_(
            "Values that stand for none, as the device sends them, with commas between them: -127, 85, 65535, N/A."
        ),
    )
    sentinel_treatment = models.CharField(
        _("treatment of sentinels"),
        max_length=6,
        choices=SentinelTreatment.choices,
        default=SentinelTreatment.SKIP,
        db_default=SentinelTreatment.SKIP,
    )
    numbers_as_text = models.BooleanField(
        _("numbers as text"),
        default=False,
        db_default=False,
        help_text=_("A text metric also takes numbers and true or false, as text."),
    )
    # Computed from the units when the metric is saved, never per message.
    # Exact fractions, as text: no float is equal to 5/9.
    factor = models.TextField(_("factor"), default="1", editable=False)
    offset = models.TextField(_("offset"), default="0", editable=False)
    # With a path of the unit: name of a unit → [factor, offset], for every unit that can be converted.
    conversions = models.JSONField(default=dict, editable=False)

    DERIVED: ClassVar = ("factor", "offset", "conversions")

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
        """Validate the fields together; raises ValidationError."""
        errors = self._clean_path() | self._clean_type() | self._clean_units()
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            errors["minimum"] = _("The minimum must not be greater than the maximum.")
        if errors:
            raise ValidationError(errors)

    def _clean_path(self) -> dict[str, Any]:
        try:
            first = paths.parse_entered(self.path)[0]
        except ValueError as error:
            return {"path": str(error)}
        if isinstance(first, paths.Wildcard | paths.MemberSelector):
            return {"path": _("The path must begin with a name; a wildcard or a selection can follow.")}
        if first in paths.PROTOCOL_MEMBERS:
            return {"path": _("%(name)s is a member of the protocol and cannot be a metric.") % {"name": first}}
        return {}

    def _clean_type(self) -> dict[str, Any]:
        if self.numbers_as_text and self.value_type != self.ValueType.TEXT:
            return {"numbers_as_text": _("Only a text metric can take numbers as text.")}
        if self.value_type == self.ValueType.NUMBER:
            if self.true_value or self.false_value:
                return {"true_value": _("Only a boolean metric can have words for true and false.")}
            return {}
        given = (self.unit_id, self.sent_unit_id, self.unit_path or None, self.minimum, self.maximum)
        if any(value is not None for value in given):
            return {"value_type": _("Only a number can have a unit and a range.")}
        if bool(self.true_value) != bool(self.false_value):
            return {"false_value": _("Set both words, for true and for false, or neither.")}
        both = {*text_values.split_words(self.true_value)} & {*text_values.split_words(self.false_value)}
        if both:
            return {"false_value": _("The word %(word)s must not stand for true and for false.") % {"word": min(both)}}
        return {}

    def _clean_units(self) -> dict[str, Any]:
        if (self.sent_unit_id or self.unit_path) and not self.unit_id:
            return {"unit": _("Choose the unit to convert to.")}
        if self.unit_path:
            try:
                unit_path = paths.parse_entered(self.unit_path)
            except ValueError as error:
                return {"unit_path": str(error)}
            if any(isinstance(part, paths.Wildcard) for part in unit_path):
                return {"unit_path": _("The path of the unit must not have a wildcard.")}
            if self.unit_path == self.path and self.number_format == self.NumberFormat.JSON:
                return {"unit_path": _("Only in a number sent as text can the unit be at the path of the value.")}
        try:
            self.work_out_conversion()
        except units.IncompatibleUnits as error:
            return {"sent_unit": str(error)}
        return {}

    def work_out_conversion(self, *, changed: Unit | None = None) -> None:
        """Set factor, offset and conversions, with `changed` instead of the unit as stored.

        Raises units.IncompatibleUnits.
        """
        unit, sent_unit = self._unit(self.unit, changed), self._unit(self.sent_unit, changed)
        self.factor, self.offset, self.conversions = "1", "0", {}
        if unit and sent_unit and sent_unit.ucum != unit.ucum:
            self.factor, self.offset = map(str, units.conversion(sent_unit.ucum, unit.ucum))
        if unit and self.unit_path:
            named = units.conversions(unit.ucum, _names_of_units(changed))
            self.conversions = {name: [str(factor), str(offset)] for name, (factor, offset) in named.items()}

    @staticmethod
    def _unit(unit: Unit | None, changed: Unit | None) -> Unit | None:
        return changed if unit is not None and changed is not None and changed.pk == unit.pk else unit

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the row with the conversion between the sent unit and the stored one."""
        self.work_out_conversion()
        super().save(*args, **kwargs)


def _names_of_units(changed: Unit | None) -> list[tuple[str, str]]:
    """Return (name, UCUM code) of the tenant's units: all symbols first, then names and UCUM codes."""
    rows = [unit for unit in Unit.objects.all() if changed is None or unit.pk != changed.pk]
    if changed is not None:
        rows.append(changed)
    called = [unit.symbol for unit in rows], [unit.name for unit in rows], [unit.ucum for unit in rows]
    return [(name, unit.ucum) for names in called for name, unit in zip(names, rows, strict=True)]
