"""The pages of alarms on the tenant's admin site, and the open alarms on the pages of devices."""

from . import episodes, rules

__all__ = ["episodes", "rules"]
