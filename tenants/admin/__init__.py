"""Staff's console: the admin site of the public side, and what is registered on it."""

from . import boards, fleet, plans, tasks, tenants, users
from .site import console

__all__ = ["boards", "console", "fleet", "plans", "tasks", "tenants", "users"]
