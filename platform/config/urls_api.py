"""The tenant's API, version 1, as one table of addresses."""

from django.urls import path

from devices.api import urls as devices_urls
from devices.api.views.root import EndpointsView
from telemetry.api import urls as telemetry_urls

_LISTS = {
    "devices": "device-list",
    "device-imports": "device-import-list",
    "components": "component-list",
    "component-types": "component-type-list",
    "metrics": "metric-list",
    "units": "unit-list",
    "hardware-models": "hardware-model-list",
    "maintenance-windows": "maintenance-window-list",
    "presence-settings": "presence-settings",
    "readings": "reading-list",
    "messages": "message-list",
    "quarantine": "quarantine-list",
    "quarantine/replays": "replay-list",
    "quarantine/floods": "quarantine-flood-list",
    "totals": "totals-list",
    "limits": "limit-list",
    "limit-refusals": "limit-refusals-list",
    "events": "events",
    "api-keys": "api-key-list",
}

urlpatterns = [
    path("", EndpointsView.as_view(endpoints=_LISTS), name="api-root"),
    *devices_urls.urlpatterns,
    *telemetry_urls.urlpatterns,
]
