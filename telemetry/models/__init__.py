"""What a tenant's devices sent, and what is worked out from it: messages, readings, rollups, newest values."""

from .imports import RecordImport
from .limits import LimitHit
from .quarantine import QuarantineFlood, Replay
from .received import (
    DeviceSequence,
    IngestTotals,
    Int8MultiRangeField,
    Message,
    Quarantined,
    Reading,
    Reason,
    Series,
)
from .retention import RetentionSettings
from .rollups import LateHour, Latest, PackedDay, ReadingDay, ReadingHour, RepackDay, RollupState

__all__ = [
    "DeviceSequence",
    "IngestTotals",
    "Int8MultiRangeField",
    "LateHour",
    "Latest",
    "LimitHit",
    "Message",
    "PackedDay",
    "QuarantineFlood",
    "Quarantined",
    "Reading",
    "ReadingDay",
    "ReadingHour",
    "Reason",
    "RecordImport",
    "RepackDay",
    "Replay",
    "RetentionSettings",
    "RollupState",
    "Series",
]
