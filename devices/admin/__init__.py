"""The tenant's admin site, and the pages of this app on it."""

from . import (
    access,
    claims,
    components,
    console,
    devices,
    imports,
    keys,
    maintenance,
    members,
    metadata,
    places,
    presence,
    presence_page,
    presence_panels,
    rotation,
    waiting_publishers,
)
from .site import tenant_admin

__all__ = [
    "access",
    "claims",
    "components",
    "console",
    "devices",
    "imports",
    "keys",
    "maintenance",
    "members",
    "metadata",
    "places",
    "presence",
    "presence_page",
    "presence_panels",
    "rotation",
    "tenant_admin",
    "waiting_publishers",
]
