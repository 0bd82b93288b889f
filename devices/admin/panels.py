"""Places of the tenant's admin which other apps fill: this app does not know them, they know this one.

An app registers its panels in its own `admin` module, which Django imports when it starts.
"""

from collections.abc import Callable
from typing import NamedTuple

from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString

from devices.models import ComponentType, Device

DashboardPanel = Callable[[HttpRequest], SafeString]
DevicePanel = Callable[[HttpRequest, Device], SafeString]
TypePage = Callable[[HttpRequest, ComponentType], HttpResponse]


class DevicePage(NamedTuple):
    """A page below a device's own, such as `…/42/change/messages/`."""

    path: str
    name: str
    view: Callable[[HttpRequest, Device], HttpResponse]


_dashboard: dict[int, DashboardPanel] = {}
_above: dict[int, DevicePanel] = {}
_below: dict[int, DevicePanel] = {}
_pages: list[DevicePage] = []
_teaching: list[TypePage] = []


def on_dashboard(order: int) -> Callable[[DashboardPanel], DashboardPanel]:
    """Register a panel of the first page."""
    return lambda panel: _dashboard.setdefault(order, panel)


def above_device(order: int) -> Callable[[DevicePanel], DevicePanel]:
    """Register a panel above a device's form."""
    return lambda panel: _above.setdefault(order, panel)


def below_device(order: int) -> Callable[[DevicePanel], DevicePanel]:
    """Register a panel below a device's form."""
    return lambda panel: _below.setdefault(order, panel)


def add_device_page(page: DevicePage) -> None:
    """Register a page below a device's own."""
    _pages.append(page)


def dashboard() -> list[DashboardPanel]:
    """The panels of the first page, in order."""
    return [_dashboard[order] for order in sorted(_dashboard)]


def above() -> list[DevicePanel]:
    """The panels above a device's form, in order."""
    return [_above[order] for order in sorted(_above)]


def below() -> list[DevicePanel]:
    """The panels below a device's form, in order."""
    return [_below[order] for order in sorted(_below)]


def device_pages() -> list[DevicePage]:
    """The pages below a device's own."""
    return list(_pages)


def teach_with(view: TypePage) -> None:
    """Register the page on which a component type is taught by example."""
    _teaching.append(view)


def teaching_page(request: HttpRequest, component_type: ComponentType) -> HttpResponse:
    """That page, by whichever app has it."""
    return _teaching[0](request, component_type)
