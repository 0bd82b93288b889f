"""The page with the newest messages of a device, as they were received."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from devices import hooks
from devices.admin import tenant_admin
from devices.admin.site import page_of
from devices.models import Device
from telemetry.models import Message
from telemetry.services.queries import readings
from tenants.admin import payloads
from tenants.admin.base import render_page

SHOWN = 50
_PAYLOAD_SHOWN = 8 * 1024  # of each; fifty whole ones could be 3 MiB


def messages_page(request: HttpRequest, device: Device) -> HttpResponse:
    """Render the newest messages by device time."""
    return render_page(
        tenant_admin.get_model_admin(Device),
        request,
        "telemetry/admin/messages.html",
        title=_("Messages received"),
        obj=device,
        rows=[_row(message) for message in readings.messages(device, limit=SHOWN)],
        shown=SHOWN,
        back=page_of(device.pk),
    )


def _row(message: Message) -> dict[str, Any]:
    return {"message": message, "payload": payloads.readable(message.payload, _PAYLOAD_SHOWN)}


hooks.device_pages.register(hooks.DevicePage(path="messages", name="messages", view=messages_page))
