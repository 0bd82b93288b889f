"""The tenant's API, version 1, as one table of addresses."""

from django.urls import path

from alarms.api import urls as alarms_urls
from devices.api import urls as devices_urls
from telemetry.api import urls as telemetry_urls
from tenants.api.views.root import EndpointsView

_ENDPOINTS = (*devices_urls.urlpatterns, *telemetry_urls.urlpatterns, *alarms_urls.urlpatterns)

urlpatterns = [path("", EndpointsView.as_view(patterns=_ENDPOINTS), name="api-root"), *_ENDPOINTS]
