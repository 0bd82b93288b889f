"""The first accounts and roles of the broker, in the form of Mosquitto's dynamic security plugin.

The plugin decides first; a topic that no rule of the account matches is decided by the broker's topic patterns
(`acl_file`). The patterns do not check subscriptions: one that no rule here refuses would be granted. Therefore every
role ends with rules that refuse every subscription, below its own rules. Receiving and publishing end at the topic
patterns, which refuse every topic that they do not name.
"""

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from devices.services.broker.topic_rules import RULES, Role

from .files import write_json

Rule = dict[str, Any]

_ITERATIONS = 101  # the plugin's own number
_ALLOWED, _REFUSED = 1, 0
# In some versions of the broker a pattern does not match topics that begin with $: they are named.
_EVERYTHING = ("#", "$share/#", "$SYS/#", "$CONTROL/#")


def account(name: str, password: str, role: str) -> dict[str, Any]:
    """Return an account without a client id: the platform's processes choose their own."""
    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS)
    return {
        "username": name,
        "password": base64.b64encode(digest).decode(),
        "salt": base64.b64encode(salt).decode(),
        "iterations": _ITERATIONS,
        "roles": [{"rolename": role}],
    }


def _rules(kind: str, *topics: str, allow: bool = True) -> list[Rule]:
    priority = _ALLOWED if allow else _REFUSED
    return [{"acltype": kind, "topic": topic, "priority": priority, "allow": allow} for topic in topics]


def _role(role: Role) -> dict[str, Any]:
    """Return the role; a topic that may be subscribed may also be received."""
    rules, groups = RULES[role], tuple(f"$share/+/{each}" for each in RULES[role].subscribe)
    acls = _rules("subscribePattern", *rules.subscribe, *(groups if rules.shared else ()))
    acls += _rules("subscribePattern", *_EVERYTHING, allow=False)
    acls += _rules("publishClientSend", *rules.publish) + _rules("publishClientReceive", *rules.subscribe)
    return {"rolename": role.value, "acls": acls}


def _device_role(*, knows_names: bool) -> dict[str, Any]:
    """Return what a device may subscribe; the topic patterns decide what it publishes and receives.

    Before Mosquitto 2.1 a role has no placeholder for the account's name, so the role names every device's commands.
    A device that subscribes another's receives nothing, because the read pattern contains its own name.
    """
    own = "%u" if knows_names else "+"
    acls = _rules("subscribePattern", *(each.format(name=own) for each in RULES[Role.DEVICE].subscribe))
    return {"rolename": Role.DEVICE.value, "acls": acls + _rules("subscribePattern", *_EVERYTHING, allow=False)}


def roles(*, knows_names: bool) -> list[dict[str, Any]]:
    """Return the roles of the platform's own accounts, and the role of all devices.

    `knows_names`: whether the plugin replaces %u in a role's rules (from Mosquitto 2.1 on).
    """
    own = [_role(role) for role in (Role.ADMIN, Role.PLATFORM, Role.BRIDGE)]
    return [*own, _device_role(knows_names=knows_names)]


def topic_patterns() -> str:
    """Return the broker's topic patterns (`acl_file`): what an account may publish and receive under its own name."""
    device = RULES[Role.DEVICE]
    lines = [f"pattern write {each.format(name='%u')}" for each in device.publish]
    lines += [f"pattern read {each.format(name='%u')}" for each in device.subscribe]
    return "\n".join([*lines, ""])


def write_configuration(path: Path, accounts: list[dict[str, Any]], *, knows_names: bool = False) -> None:
    """Update the platform's accounts and roles in the plugin's file; devices' accounts in it do not change.

    The broker must not be running: a running one keeps the file in memory and overwrites it.
    """
    kept = json.loads(path.read_text()) if path.exists() else {}
    our_roles = roles(knows_names=knows_names)
    ours = {row["username"] for row in accounts}, {row["rolename"] for row in our_roles}
    kinds = ("publishClientSend", "publishClientReceive", "subscribe", "unsubscribe")
    kept["defaultACLAccess"] = dict.fromkeys(kinds, False)
    kept["clients"] = accounts + [row for row in kept.get("clients", []) if row["username"] not in ours[0]]
    kept["roles"] = our_roles + [row for row in kept.get("roles", []) if row["rolename"] not in ours[1]]
    kept.setdefault("groups", [])
    write_json(path, kept)
