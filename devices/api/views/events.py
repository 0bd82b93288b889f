"""The changes of the devices' states as they happen, as server-sent events."""

from typing import Any, ClassVar

from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request

from devices.api.access import stream_access
from devices.api.filters import device_by_uuid
from devices.services import concurrency_limits
from devices.services.notifications import event_stream, status_feed
from tenants.api.errors import ErrorSerializer, InvalidHeader
from tenants.api.negotiation import JSONErrorsNegotiation
from tenants.api.serializers.base import ExplainedSerializer
from tenants.api.views.base import DeviceScope, TenantView
from tenants.infrastructure.concurrency import Operation
from tenants.infrastructure.database import current_schema

_GREATEST = 2**63 - 1
_LAST_EVENT_ID = OpenApiParameter(
    "Last-Event-ID",
    OpenApiTypes.INT64,
    OpenApiParameter.HEADER,
    description="The `id` of the last event that was received: the stream goes on after it. Before `last_event_id`.",
)
_EXAMPLE = """id: 4711
event: status
data: {"device": "6d1f6a3e-…", "from": "ONLINE", "to": "OFFLINE", "cause": "will", "session": "…",
       "evidence_at": "2026-11-22T09:30:00Z", "at": "2026-11-22T09:30:00.045Z", "suppressed_by": null}
"""


class EventsParameters(ExplainedSerializer):
    """The query parameters."""

    device = serializers.UUIDField(required=False, help_text="Only the changes of the device with this UUID.")
    last_event_id = serializers.IntegerField(
        required=False,
        min_value=0,
        max_value=_GREATEST,
        help_text="The stream begins after the event with this `id`; 0 for all there are. Unless given: from now on.",
    )


class EventsView(TenantView):
    """Changes of state, as they happen."""

    resource = "devices"
    device_scope = DeviceScope.DEVICES
    http_method_names = ("get",)  # a HEAD would wait for the end of the stream
    content_negotiation_class = JSONErrorsNegotiation
    renderer_classes = (JSONRenderer,)
    known: ClassVar[tuple[str, ...]] = ("device", "last_event_id")

    def known_parameters(self) -> tuple[str, ...]:
        """Return the names of the accepted query parameters."""
        return self.known

    @extend_schema(
        operation_id="events",
        parameters=[EventsParameters, _LAST_EVENT_ID],
        responses={(200, "text/event-stream"): OpenApiTypes.STR, 404: ErrorSerializer, 429: ErrorSerializer},
        examples=[OpenApiExample("A change", _EXAMPLE, response_only=True, media_type="text/event-stream")],
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        """Stream the changes of the devices' states as they happen, as server-sent events.

        Each change has an `id`, its position among the tenant's changes, greater than those before it. A client that
        connects again with the last `id` that it received misses nothing and receives nothing twice. `suppressed_by`
        says why apps were not notified of the change, or is null. A comment is sent every 15 seconds while nothing
        happens. 429: too many streams of this key, person or tenant are open.
        """
        wanted = self._wanted(request)
        device = device_by_uuid(request, wanted["device"]).uuid if "device" in wanted else None
        newest, access = status_feed.last_position(), stream_access(request)
        lease = concurrency_limits.begin(Operation.EVENT_STREAM, key_id=access.key_id, user_id=access.user_id)
        after = min(newest, wanted.get("last_event_id", newest))
        stream = event_stream.events(current_schema(), after, device, access, lease)
        response = StreamingHttpResponse(stream, content_type="text/event-stream")
        response["X-Accel-Buffering"] = "no"  # nginx would keep events back until it has a bufferful
        return response

    def _wanted(self, request: Request) -> dict[str, Any]:
        """The query parameters, checked; the header, which a browser sends when it connects again, is newer."""
        given = request.query_params.dict()
        if header := request.headers.get("Last-Event-ID"):
            given["last_event_id"] = header
        parameters = EventsParameters(data=given)
        if header and not parameters.is_valid() and "last_event_id" in parameters.errors:
            raise InvalidHeader({"Last-Event-ID": parameters.errors["last_event_id"]})
        parameters.is_valid(raise_exception=True)
        return dict(parameters.validated_data)
