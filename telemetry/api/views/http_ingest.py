"""Messages of devices that cannot speak MQTT."""

import math
from uuid import UUID

from django.conf import settings
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.exceptions import NotFound, Throttled
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response

from devices.api.visibility import NO_SUCH_DEVICE
from telemetry.api.serializers import http_ingest as shapes
from telemetry.services.ingest import http_ingest
from telemetry.services.ingest.http_ingest import MessageReceipt, MessageState
from tenants.api.errors import ErrorSerializer, Unavailable
from tenants.api.views.base import StrictView
from tenants.infrastructure.client_address import address_group
from tenants.infrastructure.database import current_schema
from tenants.infrastructure.error_codes import ErrorCode
from tenants.infrastructure.throttling import SharedSecretThrottle

failure_throttle = SharedSecretThrottle("http-ingest", settings.BROKER_FAILURES_PER_MINUTE)
_BLOCKED_SECONDS = 60


class DeviceMessagesView(StrictView):
    """Signed messages of a device."""

    # The signature of each message is the proof: a device has no API key.
    authentication_classes = ()
    permission_classes = (AllowAny,)
    # The limits of messages apply, not that of requests: devices must not use up the tenant's share of the API.
    throttle_classes = ()

    @extend_schema(
        operation_id="devices_messages_send",
        request=shapes.DeviceMessagesSerializer,
        responses={202: shapes.MessageReceiptsSerializer, 404: ErrorSerializer, 503: ErrorSerializer},
    )
    def post(self, request: Request, uuid: UUID) -> Response:
        """Store signed messages of the device, as if they had come over MQTT. No API key is needed.

        202: what the answer says of each message is committed. 503: send all of them again; none is stored twice.
        """
        address, schema = request.META.get("REMOTE_ADDR", ""), current_schema()
        device = f"{address_group(address)} {schema} {uuid}"
        left = failure_throttle.left(address, device)
        if left == 0:
            raise Throttled(_BLOCKED_SECONDS, _("Too many messages without a valid signature from this address."))
        wanted = shapes.DeviceMessagesSerializer(data=request.data, context={"uuid": uuid})
        wanted.is_valid(raise_exception=True)
        messages = [(one["topic"], one["payload"].encode()) for one in wanted.validated_data["messages"]]
        try:
            receipts = http_ingest.http_ingest.process(schema, uuid, messages, left)
        except http_ingest.UnknownDevice as error:
            failure_throttle.record(address, device, failures=1, valid=False)
            raise NotFound(str(NO_SUCH_DEVICE).format(value=uuid)) from error
        except http_ingest.IngestUnavailable as error:
            raise _unavailable(error) from error
        _record(address, device, receipts)
        return _answer(receipts)


def _record(address: str, device: str, receipts: list[MessageReceipt]) -> None:
    """Charge the address with the messages that do not prove their sender.

    Copies of messages that came before count as one failure: a device may send them again after an answer was lost.
    """
    failures = sum(receipt.is_unproven for receipt in receipts)
    is_proven = any(receipt.is_proven for receipt in receipts)
    if failures or is_proven:
        failure_throttle.record(address, device, failures=failures, valid=is_proven and not receipts[-1].is_unproven)
    else:
        failure_throttle.count(address)


def _answer(receipts: list[MessageReceipt]) -> Response:
    limited = [receipt.retry_after for receipt in receipts if receipt.state is MessageState.LIMITED]
    rows = [
        {
            "state": receipt.state,
            "reason": receipt.reason,
            "detail": receipt.detail,
            "limit": receipt.limit,
            "retry_after": receipt.retry_after if receipt.state is MessageState.LIMITED else None,
        }
        for receipt in receipts
    ]
    headers = {"Retry-After": str(math.ceil(max(limited)))} if limited else None
    return Response({"results": rows}, status.HTTP_202_ACCEPTED, headers=headers)


def _unavailable(error: http_ingest.IngestUnavailable) -> Unavailable:
    if isinstance(error, http_ingest.TenantBlocked):
        text = _("The tenant's tables are locked or faulty. Send the same messages again.")
        return Unavailable(text, ErrorCode.TENANT_UNAVAILABLE)
    if isinstance(error, http_ingest.KeysUnavailable):
        text = _("The device's key cannot be read at the moment. Send the same messages again.")
        return Unavailable(text, ErrorCode.VAULT_UNAVAILABLE)
    return Unavailable(_("Too many messages are in progress. Send the same messages again."), ErrorCode.BUSY)
