from .access import ApiKey, AuditEntry, BrokerPassword
from .idempotency import StoredAnswer
from .imports import DeviceImport
from .inventory import Component, Device, DeviceCredential
from .metadata import ComponentType, HardwareModel, Metric, Unit
from .object_changes import ObjectChange
from .places import Place
from .presence import (
    DeviceContact,
    DeviceOmissions,
    DeviceStatus,
    IgnoredWill,
    MaintenanceWindow,
    PresenceSettings,
    StatusChange,
    StatusFeed,
)
from .rotation import RotationCampaign, RotationMember
from .waiting import WaitingPublisher

__all__ = [
    "ApiKey",
    "AuditEntry",
    "BrokerPassword",
    "Component",
    "ComponentType",
    "Device",
    "DeviceContact",
    "DeviceCredential",
    "DeviceImport",
    "DeviceOmissions",
    "DeviceStatus",
    "HardwareModel",
    "IgnoredWill",
    "MaintenanceWindow",
    "Metric",
    "ObjectChange",
    "Place",
    "PresenceSettings",
    "RotationCampaign",
    "RotationMember",
    "StatusChange",
    "StatusFeed",
    "StoredAnswer",
    "Unit",
    "WaitingPublisher",
]
