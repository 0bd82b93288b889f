"""Topic rules of the broker's accounts: the one table that every broker's configuration is derived from or checked
against. Pure.

Topics are MQTT topic filters. `{name}` stands for the account's own name, which for a device is its UUID;
`{slug}` for the slug of its tenant. Topics outside the table are denied.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

_SHARED = re.compile(r"^\$share/[^/+#]+/(?P<filter>.+)$", re.DOTALL)


class Role(StrEnum):
    """The kind of an account."""

    DEVICE = "device"
    APP = "app"
    PLATFORM = "platform"  # listeners, notifiers
    BRIDGE = "bridge"
    ADMIN = "admin"  # manages Mosquitto's accounts


@dataclass(frozen=True, slots=True)
class Rules:
    """Topics that an account may publish to (wills and retained messages included), and may subscribe to.

    `shared`: whether it may use shared subscriptions (`$share/…`), which take messages away from other clients.
    """

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    shared: bool = False


RULES = {
    Role.DEVICE: Rules(
        publish=(
            "telemetry/+/{name}/#",
            "device/birth/{name}",
            "device/lwt/{name}",
            "device/lwt/status/{name}",
            "command/+/{name}/response",
        ),
        subscribe=("command/+/{name}/request",),
    ),
    Role.APP: Rules(publish=("client/request_state/{slug}/+",), subscribe=("client/state/{slug}/#",)),
    Role.PLATFORM: Rules(
        # What it subscribes to, it may publish to as well: an empty message removes a retained one.
        publish=(
            "client/state/#",
            "command/+/+/request",
            "broker/probe/#",
            "telemetry/#",
            "device/#",
            "client/request_state/#",
            "command/+/+/response",
        ),
        subscribe=(
            "telemetry/#",
            "device/#",
            "client/state/#",
            "client/request_state/#",
            "command/+/+/response",
            "broker/event/#",
            "$SYS/broker/#",
            "broker/probe/#",
        ),
        shared=True,
    ),
    Role.BRIDGE: Rules(publish=("telemetry/#", "device/birth/+", "device/lwt/#")),
    Role.ADMIN: Rules(publish=("$CONTROL/dynamic-security/#",), subscribe=("$CONTROL/dynamic-security/#",)),
}


def rules_of(role: Role, *, name: str = "", slug: str = "") -> Rules:
    """Return the role's rules for the account's name and its tenant's slug."""

    def fill(filters: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(each.replace("{name}", name).replace("{slug}", slug) for each in filters)

    rules = RULES[role]
    return Rules(fill(rules.publish), fill(rules.subscribe), rules.shared)


def may_publish(rules: Rules, topic: str) -> bool:
    """Return whether a message or a will may be published to the topic."""
    return is_topic(topic) and any(covers(allowed, topic) for allowed in rules.publish)


def may_subscribe(rules: Rules, requested: str) -> bool:
    """Return whether the filter may be subscribed: every topic that it matches must be allowed."""
    if requested.startswith("$share/"):
        group = _SHARED.match(requested)
        if not rules.shared or group is None:
            return False
        requested = group["filter"]
    return is_filter(requested) and any(covers(allowed, requested) for allowed in rules.subscribe)


def is_topic(text: str) -> bool:
    """Return whether a message can have this topic: not empty, and without wildcards."""
    return bool(text) and not set(text) & set("+#\0")


def is_filter(text: str) -> bool:
    """Return whether this is a topic filter: each wildcard is a whole level, `#` the last one."""
    levels = text.split("/")
    if not text or "\0" in text or "#" in levels[:-1]:
        return False
    return not any(len(level) > 1 and set(level) & set("+#") for level in levels)


def covers(allowed: str, requested: str) -> bool:
    """Return whether every topic that `requested` (a topic or a filter) matches is matched by `allowed`."""
    if requested.startswith("$") != allowed.startswith("$"):
        return False  # wildcards at the beginning do not reach the broker's own topics
    return _covers(allowed.split("/"), requested.split("/"))


def _covers(allowed: Sequence[str], requested: Sequence[str]) -> bool:
    for position, level in enumerate(allowed):
        if level == "#":
            return True
        if position == len(requested):
            return False
        if requested[position] == "#" or level not in ("+", requested[position]):
            return False
    return len(allowed) == len(requested)
