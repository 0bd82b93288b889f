"""Replays of the quarantine, and the floods that were counted beside it."""

from typing import Any

from django.db.models import OuterRef, Subquery
from django.utils.translation import gettext as _
from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, status, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from devices.api.filters import device_by_uuid
from devices.api.views.base import Role, TenantObjects
from devices.models import Device
from telemetry.models import QuarantineFlood, Reason, Replay
from telemetry.services.quarantine import replays
from tenants.api.errors import ErrorSerializer
from tenants.api.exceptions import Conflict

from . import replay_serializers as shapes


class ReplayViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, TenantObjects, viewsets.GenericViewSet):
    """Replays of the quarantine, newest first. Operators and writing keys begin and cancel them."""

    role_to_write = Role.OPERATOR
    http_method_names = ("get", "head", "post")
    lookup_value_converter = "int"
    lookup_field = "pk"
    lookup_url_kwarg = "id"
    queryset = Replay.objects.select_related("device").order_by("-id")
    serializer_class = shapes.ReplaySerializer

    @extend_schema(request=shapes.NewReplaySerializer, responses={201: shapes.ReplaySerializer})
    def create(self, request: Request) -> Response:
        """Put the quarantine's messages, or some of them, through the pipeline again; workers do it."""
        wanted = shapes.NewReplaySerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        given = wanted.validated_data
        selection = replays.Selection(
            reason=given.get("reason", ""),
            device=given.get("device"),
            topic=given.get("topic", ""),
            start=given.get("from"),
            stop=given.get("to"),
            chosen=tuple(given.get("ids", ())),
        )
        replay = replays.begin(selection, acting_user=self.acting_user)
        return Response(self.get_serializer(replay).data, status.HTTP_201_CREATED)

    @extend_schema(request=None, responses={200: shapes.ReplaySerializer, 409: ErrorSerializer})
    @action(detail=True, methods=["post"], pagination_class=None)
    def cancel(self, request: Request, id: Any) -> Response:  # noqa: A002 (the name in the URL)
        """Stop a replay after the batch that is being done. What is done stays done."""
        replay = self.get_object()
        if not replays.cancel(replay, acting_user=self.acting_user):
            raise Conflict(_("The replay had ended before."))
        return Response(self.get_serializer(replay).data)


class FloodFilter(filters.FilterSet):
    """What the floods are narrowed by."""

    device = filters.UUIDFilter(label="A device's UUID.", method="of_device")
    reason = filters.ChoiceFilter(choices=Reason.choices)
    day = filters.DateFilter(label="A day (2026-11-22).")

    def of_device(self, rows: Any, _name: str, value: Any) -> Any:
        return rows.filter(device_id=device_by_uuid(value).pk)


class QuarantineFloodViewSet(mixins.ListModelMixin, TenantObjects, viewsets.GenericViewSet):
    """Refused messages that were counted instead of kept, because there were too many of one kind on a day."""

    queryset = QuarantineFlood.objects.annotate(
        device_uuid=Subquery(Device.objects.filter(pk=OuterRef("device_id")).values("uuid"))
    ).order_by("-day", "-times", "id")
    serializer_class = shapes.QuarantineFloodSerializer
    filterset_class = FloodFilter
