"""Stored rows in the order of storing, for programs that keep a copy."""

from collections.abc import Sequence
from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from devices.api.visibility import selector_of
from telemetry.api import parameters
from telemetry.api.device_selection import device_ids
from telemetry.api.serializers import changes as shapes
from telemetry.services.queries import change_items
from telemetry.services.queries.change_positions import PositionLost
from telemetry.services.queries.changes import ChangeKind, ChangeSelection, ChangesPage, changes_page
from telemetry.services.queries.status_changes import StatusChangesPage, status_changes_page
from tenants.api import cursors
from tenants.api.errors import ErrorSerializer, Gone
from tenants.api.serializers.base import Timestamp
from tenants.api.views.base import CursorPageView, DeviceScope

_time = Timestamp().to_representation


class ChangesView(CursorPageView):
    """A list in the order of storing, whose `next` never ends."""

    scope: ClassVar[str]
    # Parameters that select items, beside the devices.
    filters: ClassVar[Sequence[str]] = ()

    def answer(self, wanted: dict[str, Any]) -> Response:
        """Return the page after the request's cursor. Raises Gone for a position that cannot be resumed from."""
        devices = device_ids(self.request, wanted)
        narrowed = {name: wanted[name] for name in self.filters if name in wanted}
        scope = f"{self.scope}:{wanted.get('device')}:{selector_of(self.request).stored()}:{narrowed}"
        after = cursors.decode(scope, wanted["cursor"]) if "cursor" in wanted else None
        place = {"after": after, "newest": wanted["start"] == "newest", "limit": wanted["limit"]}
        try:
            page, results = self.read(devices, narrowed, place)
        except PositionLost as error:
            raise Gone(str(error), error.code) from error
        return Response(
            {
                "results": results,
                "next": self.next_address(scope, page.end),
                "has_more": page.has_more,
                "complete": page.is_whole,
                "behind_seconds": page.behind_seconds,
            }
        )

    def read(
        self, devices: list[int] | None, narrowed: dict[str, Any], place: dict[str, Any]
    ) -> tuple[ChangesPage | StatusChangesPage, list[Any]]:
        """Return the page and its results as the answer has them. Raises PositionLost."""
        raise NotImplementedError


class ReadingChangesView(ChangesView):
    """Stored readings."""

    device_scope = DeviceScope.DEVICES
    scope = "reading-changes"
    filters = ("component", "metric", "hardware_model")
    parameters_class = parameters.ReadingChangesParameters

    @extend_schema(
        operation_id="readings_changes",
        parameters=[parameters.ReadingChangesParameters],
        responses={200: shapes.ReadingChangesPageSerializer, 404: ErrorSerializer, 410: ErrorSerializer},
    )
    def get(self, request: Request) -> Response:
        """Return the readings of all devices in the order of storing: each once, late ones too.

        Keep `next` and request it again later: nothing is missed and nothing is repeated, for as long as messages are
        kept. 410 where something after the cursor is not there any more: `position_dropped` (retention) or
        `feed_restarted` (another installation, or a restored backup). A page may hold fewer results than `limit`
        although there are more: see `has_more`.
        """
        return self.answer(self.valid_parameters())

    def read(
        self, devices: list[int] | None, narrowed: dict[str, Any], place: dict[str, Any]
    ) -> tuple[ChangesPage, list[Any]]:
        """Return the page and the readings, without a serializer: a page holds up to 1000."""
        page = changes_page(change_items.select_readings(devices=devices, **narrowed), **place)
        return page, [
            {
                "device": str(row.device),
                "component": row.component,
                "metric": row.metric,
                "value": row.value,
                "unit": row.unit or None,
                "time": _time(row.time),
                "stored_at": _time(row.stored_at),
            }
            for _item, row in change_items.named_items(page.items)
        ]


class MessageChangesView(ChangesView):
    """Stored messages."""

    device_scope = DeviceScope.DEVICES
    scope = "message-changes"
    parameters_class = parameters.MessageChangesParameters

    @extend_schema(
        operation_id="messages_changes",
        parameters=[parameters.MessageChangesParameters],
        responses={200: shapes.MessageChangesPageSerializer, 404: ErrorSerializer, 410: ErrorSerializer},
    )
    def get(self, request: Request) -> Response:
        """Return the messages of all devices in the order of storing; pages as of `readings/changes/`."""
        return self.answer(self.valid_parameters())

    def read(
        self, devices: list[int] | None, narrowed: dict[str, Any], place: dict[str, Any]
    ) -> tuple[ChangesPage, list[Any]]:
        """Return the page and the messages."""
        page = changes_page(change_items.select_messages(devices), **place)
        rows = change_items.messages_of(page.items)
        return page, list(shapes.StoredMessageSerializer(rows, many=True).data)


class QuarantineChangesView(ChangesView):
    """Messages that were added to the quarantine, changed in it, or removed from it."""

    device_scope = DeviceScope.DEVICES
    scope = "quarantine-changes"
    parameters_class = parameters.ChangesParameters

    @extend_schema(
        operation_id="quarantine_changes",
        parameters=[parameters.ChangesParameters],
        responses={200: shapes.QuarantineChangesPageSerializer, 410: ErrorSerializer},
    )
    def get(self, request: Request) -> Response:
        """Return the changes of the quarantine in the order of storing; pages as of `readings/changes/`.

        A message has an entry when it is added, when it is received again, when a replay gives it another reason, and
        when it is removed; each entry holds the message as it is now. A client with a device selector gets the messages
        of its devices, and the ids of all that were removed.
        """
        return self.answer(self.valid_parameters())

    def read(
        self, devices: list[int] | None, narrowed: dict[str, Any], place: dict[str, Any]
    ) -> tuple[ChangesPage, list[Any]]:
        """Return the page and the changes."""
        page = changes_page(ChangeSelection(ChangeKind.QUARANTINED), **place)
        rows = change_items.quarantined_of(page.items, devices)
        return page, list(shapes.QuarantineChangeSerializer(rows, many=True).data)


class StatusChangesView(ChangesView):
    """Status changes."""

    device_scope = DeviceScope.DEVICES
    scope = "status-changes"
    parameters_class = parameters.MessageChangesParameters

    @extend_schema(
        operation_id="status_changes",
        parameters=[parameters.MessageChangesParameters],
        responses={200: shapes.StatusChangesPageSerializer, 404: ErrorSerializer, 410: ErrorSerializer},
    )
    def get(self, request: Request) -> Response:
        """Return the status changes of all devices in the order of publication; pages as of `readings/changes/`."""
        return self.answer(self.valid_parameters())

    def read(
        self, devices: list[int] | None, narrowed: dict[str, Any], place: dict[str, Any]
    ) -> tuple[StatusChangesPage, list[Any]]:
        """Return the page and the changes."""
        page = status_changes_page(devices, **place)
        rows: Any = page.rows  # the serializer's type is that of one object
        return page, list(shapes.DeviceStatusChangeSerializer(rows, many=True).data)
