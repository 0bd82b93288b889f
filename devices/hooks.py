"""Hooks of this app: what it calls of the apps above it (see `tenants.infrastructure.hooks`)."""

from collections.abc import Callable, Collection
from datetime import datetime
from typing import NamedTuple

from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString

from devices.models import ComponentType, Device
from tenants.infrastructure.hooks import Hook, NavigationGroup

# Device ids → (device id, component's key) → time of the newest reading, without the components that have none.
NewestReadings = Callable[[Collection[int]], dict[tuple[int, str], datetime]]
DevicePanel = Callable[[HttpRequest, Device], SafeString]


class DevicePage(NamedTuple):
    """A page below a device's own, such as `…/42/change/messages/`."""

    path: str
    name: str
    view: Callable[[HttpRequest, Device], HttpResponse]


newest_readings: Hook[NewestReadings] = Hook("newest_readings", "returns the time of each component's newest reading")
dashboard_panels: Hook[Callable[[HttpRequest], SafeString]] = Hook(
    "dashboard_panels", "renders a panel of the tenant admin's first page"
)
panels_above_device: Hook[DevicePanel] = Hook("panels_above_device", "renders a panel above a device's form")
panels_below_device: Hook[DevicePanel] = Hook("panels_below_device", "renders a panel below a device's form")
device_pages: Hook[DevicePage] = Hook("device_pages", "a page below a device's own page")
metric_mapping_page: Hook[Callable[[HttpRequest, ComponentType], HttpResponse]] = Hook(
    "metric_mapping_page", "renders the page that maps metrics of a component type from a message"
)
tenant_navigation: Hook[NavigationGroup] = Hook("tenant_navigation", "a group of the tenant admin's sidebar")
