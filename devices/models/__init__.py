from .access import ApiKey, AuditEntry, BrokerPassword
from .inventory import Component, Device, DeviceCredential
from .metadata import ComponentType, HardwareModel, Metric, Unit
from .presence import DeviceStatus, IgnoredSign, MaintenanceWindow, PresenceSettings, StatusChange, StatusFeed

__all__ = [
    "ApiKey",
    "AuditEntry",
    "BrokerPassword",
    "Component",
    "ComponentType",
    "Device",
    "DeviceCredential",
    "DeviceStatus",
    "HardwareModel",
    "IgnoredSign",
    "MaintenanceWindow",
    "Metric",
    "PresenceSettings",
    "StatusChange",
    "StatusFeed",
    "Unit",
]
