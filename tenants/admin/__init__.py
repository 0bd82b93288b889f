"""The console: the admin site of the platform's staff, at the public address."""

from . import fleet, plans, preregistered_devices, tasks, tenants, users
from .site import console

__all__ = ["console", "fleet", "plans", "preregistered_devices", "tasks", "tenants", "users"]
