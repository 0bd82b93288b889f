"""The readings as they are stored, as server-sent events."""

from typing import Any

from django.http import StreamingHttpResponse
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request

from devices.api.access import stream_access
from devices.services import concurrency_limits
from telemetry.api.device_selection import device_ids, devices_by_uuid
from telemetry.api.parameters import MAX_DEVICES, MAX_NAMES
from telemetry.services.live import pages, stream
from telemetry.services.queries.change_positions import PositionLost
from tenants.api.errors import ErrorSerializer, Gone
from tenants.api.negotiation import JSONErrorsNegotiation
from tenants.api.views.base import DeviceScope, ParametersView
from tenants.infrastructure.concurrency import Operation
from tenants.infrastructure.database import current_schema

_LAST_EVENT_ID = OpenApiParameter(
    "Last-Event-ID",
    OpenApiTypes.STR,
    OpenApiParameter.HEADER,
    description="The `id` of the last event that was received: the stream goes on after it. Before `last_event_id`.",
)
_EXAMPLE = """id: 0d4c7a9e-….81234.0.
event: readings
data: [{"device": "6d1f6a3e-…", "component": "dht22", "metric": "temperature", "value": 21.5, "unit": "°C",
       "time": "2026-11-22T09:30:00Z"}]
"""


def _names(what: str, most: int) -> serializers.ListField:
    return serializers.ListField(
        child=serializers.CharField(trim_whitespace=False),
        required=False,
        max_length=most,
        help_text=f"{what}; may be given several times. All unless given.",
    )


class StreamParameters(serializers.Serializer):
    """The query parameters."""

    device = serializers.ListField(
        child=serializers.UUIDField(),
        required=False,
        max_length=MAX_DEVICES,
        help_text="A device's UUID; may be given several times. All unless given.",
    )
    component = _names("A component's key, for example dht22", MAX_NAMES)
    component_type = _names("A component type's key", MAX_NAMES)
    metric = _names("A metric's key, for example temperature", MAX_NAMES)
    last_event_id = serializers.CharField(
        required=False,
        help_text="The stream begins after the event with this `id`. Unless given: with the newest values.",
    )

    def validate_last_event_id(self, value: str) -> str:
        """Return the id. Raises ValidationError for a text that no event has."""
        if pages.parse_id(value) is None:
            raise serializers.ValidationError(
                _("%(value)r is not the id of an event of this stream.") % {"value": value[:80]}
            )
        return value


class ReadingsStreamView(ParametersView):
    """Readings as they are stored."""

    device_scope = DeviceScope.DEVICES
    http_method_names = ("get",)  # a HEAD would wait for the end of the stream
    content_negotiation_class = JSONErrorsNegotiation
    renderer_classes = (JSONRenderer,)
    parameters_class = StreamParameters

    @extend_schema(
        operation_id="readings_stream",
        parameters=[StreamParameters, _LAST_EVENT_ID],
        responses={
            (200, "text/event-stream"): OpenApiTypes.STR,
            404: ErrorSerializer,
            410: ErrorSerializer,
            429: ErrorSerializer,
        },
        examples=[OpenApiExample("Readings", _EXAMPLE, response_only=True, media_type="text/event-stream")],
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        """Stream the readings as they are stored, as server-sent events.

        Without an id the newest values come first, in events `latest`; then each stored reading once, in events
        `readings` with lists in the order of storing. A client that connects again with the last `id` misses nothing.
        410 as of `readings/changes/`; 429: too many streams of this key, person or tenant are open.
        """
        wanted, access = self.valid_parameters(), stream_access(request)
        devices = devices_by_uuid(self.request, wanted["device"]) if "device" in wanted else None
        after = _resumed(wanted["last_event_id"]) if "last_event_id" in wanted else pages.newest_id()
        selection = pages.LiveFilter(
            devices=frozenset(device.uuid for device in devices or ()),
            components=frozenset(wanted.get("component", ())),
            metrics=frozenset(wanted.get("metric", ())),
            types=frozenset(wanted.get("component_type", ())),
            of_types=pages.components_of_types(wanted.get("component_type", ())),
            visible=access.visible,
        )
        lease = concurrency_limits.begin(Operation.EVENT_STREAM, key_id=access.key_id, user_id=access.user_id)
        events = stream.readings(
            current_schema(),
            after,
            selection,
            access,
            latest_of=device_ids(request, wanted),
            has_latest="last_event_id" not in wanted,
            lease=lease,
        )
        response = StreamingHttpResponse(events, content_type="text/event-stream")
        response["X-Accel-Buffering"] = "no"  # nginx would keep events back until it has a bufferful
        return response

    def given_parameters(self) -> dict[str, Any]:
        """Return the query parameters; the header, which a browser sends when it connects again, is newer."""
        given = super().given_parameters()
        if header := self.request.headers.get("Last-Event-ID"):
            given["last_event_id"] = header
        return given


def _resumed(event_id: str) -> str:
    """Return the id, from which the stream can be resumed. Raises Gone."""
    try:
        pages.read_page(event_id)
    except PositionLost as error:
        raise Gone(str(error), error.code) from error
    return event_id
