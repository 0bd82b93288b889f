"""Stage 6 of ingest: see `store`."""

from .direct import Conflict
from .store import Packed, Storage
from .types import AcceptedItem, Incoming, Judged, LimitedItem, Outcome, RefusedItem

__all__ = [
    "AcceptedItem",
    "Conflict",
    "Incoming",
    "Judged",
    "LimitedItem",
    "Outcome",
    "Packed",
    "RefusedItem",
    "Storage",
]
