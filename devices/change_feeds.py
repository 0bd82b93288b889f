"""Change feeds to the listeners: changed specifications, renamed series, and devices that upgraded their signature.

A listener that misses a change, because Redis is unavailable, reads specifications again after a time limit.
"""

from uuid import UUID

from tenants.infrastructure.change_feed import ChangeFeed

_SPECS = ChangeFeed("gwanje:spec_changes")
_SERIES_MARK = "#series"
# One member for each device: a change of the tenant's specifications would reload all of them whenever a device of a
# fleet gets new firmware. Kept longer than a listener, however idle, uses a specification without reading it again.
_SIGNATURE_UPGRADES = ChangeFeed("gwanje:floor_changes", kept_seconds=3600)


def publish_spec_change(schema: str) -> None:
    """Mark the specifications of the schema as changed now. An unavailable Redis is logged, not raised."""
    _SPECS.publish(schema)


def publish_renamed_series(schema: str) -> None:
    """Mark series of the schema as renamed, so that listeners look their ids up again."""
    _SPECS.publish(schema + _SERIES_MARK)


def spec_changes_since(score: int) -> dict[str, int]:
    """Return the members changed at or after `score` (µs), with their scores (µs). Raises RedisError."""
    return _SPECS.changes(score, inclusive=True)


def renamed_series_of(member: str) -> str | None:
    """Return the schema of a member of `spec_changes_since` that stands for renamed series, else None."""
    return member.removesuffix(_SERIES_MARK) if member.endswith(_SERIES_MARK) else None


def publish_signature_upgrade(uuid: UUID) -> None:
    """Mark the device as one whose version 1 signatures are rejected from now on. Redis' errors are logged."""
    _SIGNATURE_UPGRADES.publish(str(uuid))


def signature_upgrades_after(score: int) -> dict[UUID, int]:
    """Return the devices that were published after `score` (µs), with their scores. Raises RedisError."""
    return {UUID(uuid): at for uuid, at in _SIGNATURE_UPGRADES.changes(score, inclusive=False).items()}
