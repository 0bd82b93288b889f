"""The pages of telemetry on the tenant's admin site, and its panels on the pages of devices."""

from . import (
    console,
    dashboard,
    device_panels,
    ingest_totals,
    limits,
    messages,
    metric_mapping,
    quarantine,
    replays,
    retention,
)

__all__ = [
    "console",
    "dashboard",
    "device_panels",
    "ingest_totals",
    "limits",
    "messages",
    "metric_mapping",
    "quarantine",
    "replays",
    "retention",
]
