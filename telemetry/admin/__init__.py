"""What of telemetry is on the tenant's admin site: lists of its own, and panels on the pages of devices."""

from . import dashboard, device_panels, messages, quarantine, retention, totals

__all__ = ["dashboard", "device_panels", "messages", "quarantine", "retention", "totals"]
