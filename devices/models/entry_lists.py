"""The fields of a component type that state where its messages have a list of entries, and their times."""

from typing import Any
from zoneinfo import available_timezones

from django.core.exceptions import ValidationError
from django.db import models
from django.utils.translation import gettext_lazy as _

from devices.domain import entry_lists, paths


class EntryListFields(models.Model):
    """The list of entries in a message, and the time of each or, without a list, of the message."""

    class ListForm(models.TextChoices):
        """The form of a list of entries."""

        OBJECTS = entry_lists.OBJECTS, _("objects, each with its values")
        SENML = entry_lists.SENML, _("a SenML pack")

    class TimeFormat(models.TextChoices):
        """The form of a time."""

        AUTO = entry_lists.AUTO, _("ISO 8601, or a Unix time by its size")
        ISO = entry_lists.ISO, _("ISO 8601")
        SECONDS = entry_lists.SECONDS, _("Unix time in seconds")
        MILLISECONDS = entry_lists.MILLISECONDS, _("Unix time in milliseconds")
        MICROSECONDS = entry_lists.MICROSECONDS, _("Unix time in microseconds")
        NANOSECONDS = entry_lists.NANOSECONDS, _("Unix time in nanoseconds")

    list_path = models.CharField(
        _("path of the list"),
        max_length=200,
        blank=True,
        default="",
        db_default="",
        help_text=_(
            "Only if a message has several entries with their own times: the path of the array, or of a text with JSON "
            "lines. The paths of metrics are then paths in an entry."
        ),
    )
    list_form = models.CharField(
        _("form of the list"),
        max_length=7,
        choices=ListForm.choices,
        default=ListForm.OBJECTS,
        db_default=ListForm.OBJECTS,
        help_text=_("The value of a SenML record is at the path name.v, its unit at name.u."),
    )
    time_path = models.CharField(
        _("path of the time"),
        max_length=200,
        blank=True,
        default="",
        db_default="",
        help_text=_("In each entry of the list or, without a list, in a message that has no timestamp."),
    )
    time_format = models.CharField(
        _("form of the time"),
        max_length=4,
        choices=TimeFormat.choices,
        default=TimeFormat.AUTO,
        db_default=TimeFormat.AUTO,
    )
    time_zone = models.CharField(
        _("time zone of the time"),
        max_length=63,
        blank=True,
        default="",
        db_default="",
        help_text=_("For times without an offset, for example Asia/Seoul. If empty, they are refused."),
    )

    class Meta:
        abstract = True

    def clean(self) -> None:
        """Validate the fields together; raises ValidationError."""
        errors: dict[str, Any] = {}
        for field in ("list_path", "time_path"):
            try:
                first = paths.parse_entered(getattr(self, field))[0] if getattr(self, field) else ""
            except ValueError as error:
                errors[field] = str(error)
            else:
                if first in paths.PROTOCOL_MEMBERS - {"timestamp"} or (first == "timestamp" and not self.list_path):
                    errors[field] = _("%(name)s is a member of the protocol.") % {"name": first}
        is_senml = self.list_form == self.ListForm.SENML
        if is_senml and (not self.list_path or self.time_path):
            errors["list_form"] = _("A SenML pack needs the path of the list, and has times of its own.")
        if self.time_zone and self.time_zone not in available_timezones():
            errors["time_zone"] = _("%(name)s is not a time zone, such as Asia/Seoul.") % {"name": self.time_zone}
        elif self.time_zone and not self.time_path:
            errors["time_zone"] = _("A time zone needs the path of the time.")
        if errors:
            raise ValidationError(errors)

    @property
    def entries(self) -> entry_lists.EntryList | None:
        """Return the places as the listener uses them; None where the type states none."""
        return entry_list_of(self)


def entry_list_of(row: Any) -> entry_lists.EntryList | None:
    """Return the places of a row with these fields; None where it states none."""
    if not row.list_path and not row.time_path:
        return None
    return entry_lists.EntryList(
        path=paths.parse(row.list_path) if row.list_path else (),
        form=row.list_form,
        time_path=paths.parse(row.time_path) if row.time_path else (),
        time_format=row.time_format,
        zone=row.time_zone,
    )
