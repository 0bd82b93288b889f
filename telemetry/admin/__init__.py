"""What of telemetry is on the tenant's admin site: lists of its own, and panels on the pages of devices."""

from . import console, dashboard, device_panels, limits, messages, quarantine, replays, retention, teaching, totals

__all__ = [
    "console",
    "dashboard",
    "device_panels",
    "limits",
    "messages",
    "quarantine",
    "replays",
    "retention",
    "teaching",
    "totals",
]
