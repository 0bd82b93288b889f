"""Messages as they were received, those that are missing, and the counts of each day."""

from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import mixins, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from devices.api.filters import device_by_uuid
from telemetry.api import parameters
from telemetry.api.filters import TotalsFilter
from telemetry.api.serializers import messages as shapes
from telemetry.models import IngestTotals
from telemetry.services.queries import readings
from telemetry.services.queries.missing_sequences import SequenceCompleteness, find_missing_sequences
from tenants.api import cursors
from tenants.api.errors import ErrorSerializer
from tenants.api.views.base import CursorPageView, DeviceScope, ObjectsView, TenantView


class MissingSequencesView(TenantView):
    """Which messages of a device are missing."""

    resource = "readings"
    device_scope = DeviceScope.DEVICES

    @extend_schema(operation_id="devices_missing_sequences", responses=shapes.MissingSequencesSerializer)
    def get(self, request: Request, uuid: UUID) -> Response:
        """Return the missing sequence numbers of a device's messages (version 2), and how many are expected."""
        device = device_by_uuid(request, uuid)
        whole = SequenceCompleteness.read(device)
        rows = shapes.MissingRangeSerializer(
            find_missing_sequences([device.pk], limit=shapes.MAX_RANGES), many=True
        ).data
        return Response({"expected": whole.expected, "missing": whole.missing, "results": rows})


class MessagesView(CursorPageView):
    """A device's messages as they were received."""

    resource = "readings"
    device_scope = DeviceScope.DEVICES
    parameters_class = parameters.MessagesParameters
    row_class = shapes.MessageSerializer

    @extend_schema(
        operation_id="messages_list",
        parameters=[parameters.MessagesParameters],
        responses={200: shapes.MessagesPageSerializer, 404: ErrorSerializer},
    )
    def get(self, request: Request) -> Response:
        """Return a device's messages as they were received, newest device time first."""
        wanted = self.valid_parameters()
        device = device_by_uuid(request, wanted["device"])
        scope = f"messages:{device.uuid}"
        after = cursors.decode_after(scope, wanted.get("cursor"), UUID)
        rows = readings.messages(
            device, start=wanted.get("from"), stop=wanted.get("to"), after=after, limit=wanted["limit"] + 1
        )
        for row in rows:
            row.device = device
        return self.page(rows, wanted["limit"], scope, lambda row: [row.time.isoformat(), str(row.fingerprint)])


class TotalsViewSet(mixins.ListModelMixin, ObjectsView, viewsets.GenericViewSet):
    """Counts of each day's messages, newest day (UTC) first."""

    resource = "usage"
    queryset = IngestTotals.objects.order_by("-day")
    serializer_class = shapes.TotalsSerializer
    filterset_class = TotalsFilter
