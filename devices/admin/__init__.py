"""The tenant's own admin site, and what of this app is registered on it."""

from . import access, components, devices, keys, metadata, presence
from .site import tenant_admin

__all__ = ["access", "components", "devices", "keys", "metadata", "presence", "tenant_admin"]
