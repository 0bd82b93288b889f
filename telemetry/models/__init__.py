"""Models of a tenant's telemetry: messages, readings, quarantine, rollups, newest values, limits, retention."""

from .changes import ChangeBatch, ChangeGeneration
from .legacy_imports import LegacyImport
from .limits import LimitHit
from .messages import DeviceSequence, IngestTotals, Int8MultiRangeField, Message, Reading, Series
from .quarantine import Quarantined, Reason, Replay, SuppressedMessages
from .retention import RetentionSettings
from .rollups import LateHour, Latest, PackedDay, ReadingDay, ReadingHour, RepackDay, RollupState

__all__ = [
    "ChangeBatch",
    "ChangeGeneration",
    "DeviceSequence",
    "IngestTotals",
    "Int8MultiRangeField",
    "LateHour",
    "Latest",
    "LegacyImport",
    "LimitHit",
    "Message",
    "PackedDay",
    "Quarantined",
    "Reading",
    "ReadingDay",
    "ReadingHour",
    "Reason",
    "RepackDay",
    "Replay",
    "RetentionSettings",
    "RollupState",
    "Series",
    "SuppressedMessages",
]
