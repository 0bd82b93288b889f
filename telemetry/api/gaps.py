"""What is missing between the numbers of a device's messages."""

from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from devices.api.filters import device_by_uuid
from devices.api.views.base import TenantView
from telemetry.services.queries.missing_sequences import Completeness, gaps_of

_MOST = 1000


class GapSerializer(serializers.Serializer):
    """Numbers of one boot that are missing, from the first to the last, both included."""

    boot = serializers.IntegerField()
    first = serializers.IntegerField()
    last = serializers.IntegerField()
    count = serializers.IntegerField()


class GapsSerializer(serializers.Serializer):
    """How complete a device's numbered messages are. Those of version 1 have no numbers."""

    expected = serializers.IntegerField(help_text="Messages up to the newest number of each boot.")
    missing = serializers.IntegerField(help_text="Of these, how many are not stored: lost, refused, or on their way.")
    results = GapSerializer(many=True, help_text=f"The newest first, {_MOST} at most.")


class GapsView(TenantView):
    """Which messages of a device are missing."""

    @extend_schema(operation_id="devices_gaps", responses=GapsSerializer)
    def get(self, request: Request, uuid: UUID) -> Response:
        """Which numbers of a device's messages (version 2) are missing, and how many should be there."""
        device = device_by_uuid(uuid)
        whole = Completeness.of(device)
        rows = GapSerializer(gaps_of([device.pk], limit=_MOST), many=True).data
        return Response({"expected": whole.expected, "missing": whole.missing, "results": rows})
