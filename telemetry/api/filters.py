"""Filters of the lists of daily counts."""

from typing import Any

from django import forms
from django.utils.translation import gettext as _
from django_filters import rest_framework as filters
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field

from devices.api.filters import ChoicesFilter, OfDevice, device_by_uuid
from telemetry.models import Reason
from tenants.infrastructure.error_codes import ErrorCode
from tenants.services.limits import LimitName


class DayRangeForm(forms.Form):
    """A form with the days `from` and `to`; rejects a range that ends before it begins."""

    def clean(self) -> dict[str, Any]:
        """Return the cleaned values; `from` has an error where it is not earlier than `to`."""
        values = self.cleaned_data
        start, stop = values.get("from"), values.get("to")
        if start and stop and start >= stop:
            self.add_error(
                "from", forms.ValidationError(_("'from' must be earlier than 'to'."), ErrorCode.INVALID_RANGE)
            )
        return values


# "from" is a keyword, which a class body cannot assign.
TotalsFilter: type[filters.FilterSet] = type(
    "TotalsFilter",
    (filters.FilterSet,),
    {
        "Meta": type("Meta", (), {"form": DayRangeForm}),
        "from": filters.DateFilter(field_name="day", lookup_expr="gte", label="Not before this day (2026-11-22)."),
        "to": filters.DateFilter(field_name="day", lookup_expr="lt", label="Before this day (2026-11-22)."),
    },
)


class LimitHitFilter(OfDevice, TotalsFilter):
    """By day, limit and device."""

    name = ChoicesFilter(
        field_name="limit", choices=[(name.value, name.value) for name in LimitName], label="The limit's name."
    )


class SuppressedMessagesFilter(filters.FilterSet):
    """By device, reason and day."""

    device = filters.UUIDFilter(label="A device's UUID.", method="of_device")
    reason = ChoicesFilter(choices=Reason.choices)
    day = filters.DateFilter(label="A day (2026-11-22).")

    @extend_schema_field(OpenApiTypes.UUID)
    def of_device(self, rows: Any, _name: str, value: Any) -> Any:
        return rows.filter(device_id=device_by_uuid(self.request, value, "uuid").pk)
