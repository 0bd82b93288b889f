"""The panel of the broker on the console's first page."""

from django.conf import settings
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from devices.services.broker.usage import BROKER_USAGE
from tenants.infrastructure import hooks

_LABELS = {
    "clients/connected": _("Connected clients"),
    "clients/disconnected": _("Absent sessions"),
    "store/messages/count": _("Stored messages"),
    "store/messages/bytes": _("Stored bytes"),
    "retained messages/count": _("Retained messages"),
    "publish/messages/dropped": _("Dropped messages"),
}


@hooks.console_panels.provider(20)
def broker_usage(request: HttpRequest) -> SafeString:
    """Render what the broker keeps; nothing for a broker that the platform does not manage."""
    if not settings.MQTT_ADMIN_URL or not settings.MQTT_URL:
        return SafeString("")
    values = BROKER_USAGE.values()
    rows = [(label, int(values[topic])) for topic, label in _LABELS.items() if topic in values]
    return render_to_string("devices/admin/console_broker.html", {"rows": rows}, request)
