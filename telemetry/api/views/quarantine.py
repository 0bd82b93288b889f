"""The quarantine, its replays, and the messages that were only counted."""

from typing import Any

from django.db.models import OuterRef, Subquery
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, status, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from devices.api.filters import device_by_uuid
from devices.api.views.base import AuditedView
from devices.api.visibility import selector_of, visible_devices
from devices.models import Device
from telemetry.api import parameters
from telemetry.api.filters import SuppressedMessagesFilter
from telemetry.api.serializers import quarantine as shapes
from telemetry.models import Replay, SuppressedMessages
from telemetry.services.quarantine import replays
from telemetry.services.queries import readings
from tenants.api import cursors
from tenants.api.errors import Conflict, ErrorSerializer
from tenants.api.serializers.base import refuse_body
from tenants.api.views.base import CursorPageView, DeviceScope, ObjectsView
from tenants.infrastructure.error_codes import ErrorCode
from tenants.services.roles import Role


class ReplayViewSet(
    mixins.ListModelMixin, mixins.RetrieveModelMixin, AuditedView, ObjectsView, viewsets.GenericViewSet
):
    """Replays of the quarantine, newest first. Operators and writing keys begin and cancel them."""

    resource = "quarantine"
    device_scope = DeviceScope.DEVICES
    device_path = "device"
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
        wanted = shapes.NewReplaySerializer(data=request.data, context={"request": request})
        wanted.is_valid(raise_exception=True)
        given = wanted.validated_data
        selection = replays.ReplaySelection(
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
        refuse_body(request)
        replay = self.get_object()
        if not replays.cancel(replay, acting_user=self.acting_user):
            raise Conflict(_("The replay has already ended."), ErrorCode.WRONG_STATE)
        return Response(self.get_serializer(replay).data)


class SuppressedMessagesViewSet(mixins.ListModelMixin, ObjectsView, viewsets.GenericViewSet):
    """Refused messages that were counted instead of kept, because there were too many of one kind on a day."""

    resource = "quarantine"
    device_scope = DeviceScope.DEVICES
    device_path = "device"
    queryset = SuppressedMessages.objects.annotate(
        device_uuid=Subquery(Device.objects.filter(pk=OuterRef("device_id")).values("uuid"))
    ).order_by("-day", "-count", "id")
    serializer_class = shapes.SuppressedMessagesSerializer
    filterset_class = SuppressedMessagesFilter


class QuarantineView(CursorPageView):
    """The rejected messages."""

    resource = "quarantine"
    device_scope = DeviceScope.DEVICES
    parameters_class = parameters.QuarantineParameters
    row_class = shapes.QuarantinedSerializer

    @extend_schema(
        operation_id="quarantine_list",
        parameters=[parameters.QuarantineParameters],
        responses={200: shapes.QuarantinePageSerializer, 404: ErrorSerializer},
    )
    def get(self, request: Request) -> Response:
        """Return the rejected messages and the reasons, last received first."""
        wanted = self.valid_parameters()
        device = device_by_uuid(request, wanted["device"]) if "device" in wanted else None
        topic = wanted.get("topic", "")
        scope = f"quarantine:{device.uuid if device else ''}:{wanted.get('reason', '')}:{topic}"
        rows = readings.quarantined(
            device=device,
            devices=visible_devices(request) if selector_of(request) else None,
            reason=wanted.get("reason", ""),
            topic=topic,
            start=wanted.get("from"),
            stop=wanted.get("to"),
            after=cursors.decode_after(scope, wanted.get("cursor"), int),
            limit=wanted["limit"] + 1,
        )
        return self.page(rows, wanted["limit"], scope, lambda row: [row.last_received_at.isoformat(), row.pk])
