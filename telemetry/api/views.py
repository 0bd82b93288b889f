"""Latest values, readings, messages, the quarantine and the day's totals."""

import datetime
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any
from uuid import UUID

from django.utils.translation import gettext as _
from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, viewsets
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from devices.api.filters import device_by_uuid
from devices.api.views.base import TenantObjects, TenantView
from devices.api.views.ranges import RangeView
from devices.models import Component, Device, Metric
from telemetry.models import IngestTotals, Series
from telemetry.services.queries import calendar_intervals, completeness, readings
from tenants.api import cursors
from tenants.api.errors import ErrorSerializer

from . import parameters
from . import serializers as shapes


class LatestView(TenantView):
    """The newest value of each metric of a device."""

    @extend_schema(operation_id="devices_latest", responses=shapes.LatestPageSerializer)
    def get(self, request: Request, uuid: UUID) -> Response:
        """The newest value of each metric of a device."""
        values = readings.latest_values(device_by_uuid(uuid))
        return Response({"results": shapes.LatestSerializer(values, many=True).data})


class ReadingsView(RangeView):
    """The readings of one metric of one component."""

    parameters_class = parameters.ReadingsParameters
    row_class = shapes.ReadingSerializer

    @extend_schema(
        operation_id="readings_list",
        parameters=[parameters.ReadingsParameters],
        responses={200: shapes.ReadingsPageSerializer, 404: ErrorSerializer},
    )
    def get(self, request: Request) -> Response:
        """The readings of one metric of one component, oldest first.

        Where the metric's unit was changed, those before the change carry the unit that they were measured in.
        """
        wanted = self.wanted()
        device = device_by_uuid(wanted["device"])
        series = _series(device, wanted["component"], wanted["metric"])
        scope = f"readings:{device.uuid}:{wanted['component']}:{wanted['metric']}"
        rows = readings.readings(
            series,
            start=wanted.get("from"),
            stop=wanted.get("to"),
            after=_reading_position(scope, wanted.get("cursor")),
            limit=wanted["limit"] + 1,
        )
        answer = self.answer(rows, wanted["limit"], scope, lambda row: [row.time.isoformat(), row.series, row.key])
        start, stop = wanted.get("from"), wanted.get("to")
        lacks = completeness.lacks([device.pk], start, stop, raw_from=start or calendar_intervals.EARLIEST)
        if answer.data["next"]:
            lacks.append(completeness.more())
        answer.data |= {"complete": not lacks, "incomplete": [asdict(lack) for lack in lacks]}
        return answer


class MessagesView(RangeView):
    """A device's messages as they were received."""

    parameters_class = parameters.MessagesParameters
    row_class = shapes.MessageSerializer

    @extend_schema(
        operation_id="messages_list",
        parameters=[parameters.MessagesParameters],
        responses={200: shapes.MessagesPageSerializer, 404: ErrorSerializer},
    )
    def get(self, request: Request) -> Response:
        """A device's messages as they were received, newest device time first."""
        wanted = self.wanted()
        device = device_by_uuid(wanted["device"])
        scope = f"messages:{device.uuid}"
        after = _position(scope, wanted.get("cursor"), UUID)
        rows = readings.messages(
            device, start=wanted.get("from"), stop=wanted.get("to"), after=after, limit=wanted["limit"] + 1
        )
        for row in rows:
            row.device = device
        return self.answer(rows, wanted["limit"], scope, lambda row: [row.time.isoformat(), str(row.fingerprint)])


class QuarantineView(RangeView):
    """The messages that were refused."""

    parameters_class = parameters.QuarantineParameters
    row_class = shapes.QuarantinedSerializer

    @extend_schema(
        operation_id="quarantine_list",
        parameters=[parameters.QuarantineParameters],
        responses={200: shapes.QuarantinePageSerializer, 404: ErrorSerializer},
    )
    def get(self, request: Request) -> Response:
        """The messages that were refused and why, last received first."""
        wanted = self.wanted()
        device = device_by_uuid(wanted["device"]) if "device" in wanted else None
        topic = wanted.get("topic", "")
        scope = f"quarantine:{device.uuid if device else ''}:{wanted.get('reason', '')}:{topic}"
        rows = readings.quarantined(
            device=device,
            reason=wanted.get("reason", ""),
            topic=topic,
            start=wanted.get("from"),
            stop=wanted.get("to"),
            after=_position(scope, wanted.get("cursor"), int),
            limit=wanted["limit"] + 1,
        )
        return self.answer(rows, wanted["limit"], scope, lambda row: [row.last_received_at.isoformat(), row.pk])


# "from" is no name that a class body can hold.
TotalsFilter: type[filters.FilterSet] = type(
    "TotalsFilter",
    (filters.FilterSet,),
    {
        "from": filters.DateFilter(field_name="day", lookup_expr="gte", label="Not before this day (2026-11-22)."),
        "to": filters.DateFilter(field_name="day", lookup_expr="lt", label="Before this day (2026-11-22)."),
    },
)


class TotalsViewSet(mixins.ListModelMixin, TenantObjects, viewsets.GenericViewSet):
    """What became of each day's messages, newest day (UTC) first."""

    queryset = IngestTotals.objects.order_by("-day")
    serializer_class = shapes.TotalsSerializer
    filterset_class = TotalsFilter


def _series(device: Device, component: str, metric: str) -> list[Series]:
    """The series of the metric, or none yet. Raises NotFound with what there is instead."""
    found = readings.series_of(device, component, metric)
    if found:
        return found
    types = dict(Component.objects.filter(device=device).values_list("key", "component_type_id"))
    measured = set(Series.objects.filter(device=device).values_list("component", "metric"))
    components = types.keys() | {key for key, _metric in measured}
    if component not in components:
        values = {"device": device.name, "component": component, "known": _listed(components)}
        raise NotFound(_("%(device)s has no component %(component)r. It has: %(known)s.") % values)
    metrics = {key for of, key in measured if of == component}
    metrics |= set(Metric.objects.filter(component_type_id=types.get(component)).values_list("key", flat=True))
    if metric not in metrics:
        values = {"component": component, "metric": metric, "known": _listed(metrics)}
        raise NotFound(_("%(component)s has no metric %(metric)r. It has: %(known)s.") % values)
    return []


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or _("none")


def _position(scope: str, cursor: str | None, kind: Callable[[Any], Any]) -> tuple[datetime.datetime, Any] | None:
    if cursor is None:
        return None
    time, key = cursors.decode(scope, cursor)
    return datetime.datetime.fromisoformat(time), kind(key)


def _reading_position(scope: str, cursor: str | None) -> readings.Position | None:
    if cursor is None:
        return None
    time, series, key = cursors.decode(scope, cursor)
    return readings.Position(datetime.datetime.fromisoformat(time), series, key)
