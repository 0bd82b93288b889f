"""Scopes of API keys: a resource and an action, and the names of sets of them."""

from collections.abc import Iterable

READING = (
    "devices:read",
    "readings:read",
    "quarantine:read",
    "metadata:read",
    "credentials:read",
    "usage:read",
    "alarms:read",
)
WRITING = (
    "devices:write",
    "quarantine:write",
    "metadata:write",
    "credentials:write",
    "alarms:write",
    "gateways:write",
)
EXPORTING = ("export:read", "audit:read")
# In no set: they are given by name only.
MANAGING = ("keys:read", "keys:write", "members:read", "members:write")
SCOPES = tuple(sorted((*READING, *WRITING, *EXPORTING, *MANAGING)))
SETS: dict[str, frozenset[str]] = {
    "read": frozenset(READING),
    "write": frozenset((*READING, *WRITING)),
    "admin": frozenset((*READING, *WRITING, *EXPORTING)),
}

SET_NAMES = tuple(SETS)
# The rights of a role as scopes: a key gives a member a role only if it has them all. No key makes owners.
ROLE_SCOPES: dict[str, frozenset[str]] = {
    "viewer": frozenset(READING),
    "operator": frozenset((*READING, "devices:write", "quarantine:write", "credentials:write")),
    "admin": frozenset(SCOPES),
}


def granted(name: str, scopes: Iterable[str]) -> frozenset[str]:
    """Return the scopes of a set's name, or else the scopes that are listed."""
    return SETS.get(name) or frozenset(scopes)
