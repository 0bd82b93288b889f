"""The first accounts and roles of the broker, in the form of Mosquitto's dynamic security plugin.

The plugin is asked first; what none of an account's rules matches it leaves to the broker's topic patterns
(`acl_file`). Those do not look at subscriptions: one that no rule here refuses would be granted. So every role
ends with rules that refuse every subscription, and its own have a higher priority. Receiving and publishing
end at the topic patterns, which refuse what they do not name.
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

_ITERATIONS = 101  # what the plugin itself uses
_ALLOWED, _REFUSED = 1, 0
# A pattern does not reach topics that begin with $ in every version of the broker: name them.
_EVERYTHING = ("#", "$share/#", "$SYS/#", "$CONTROL/#")


def account(name: str, password: str, role: str) -> dict[str, Any]:
    """An account without a client id of its own: the platform's processes choose theirs."""
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
    """What may be subscribed is also received."""
    rules, groups = RULES[role], tuple(f"$share/+/{each}" for each in RULES[role].subscribe)
    acls = _rules("subscribePattern", *rules.subscribe, *(groups if rules.shared else ()))
    acls += _rules("subscribePattern", *_EVERYTHING, allow=False)
    acls += _rules("publishClientSend", *rules.publish) + _rules("publishClientReceive", *rules.subscribe)
    return {"rolename": role.value, "acls": acls}


def _device_role(*, knows_names: bool) -> dict[str, Any]:
    """What a device may subscribe; the topic patterns rule what it publishes and what is delivered to it.

    Before 2.1 the plugin knows no place for the account's name, so that the role names every device's commands: one
    that subscribes another's is delivered nothing, as the pattern for reading holds its own name.
    """
    own = "%u" if knows_names else "+"
    acls = _rules("subscribePattern", *(each.format(name=own) for each in RULES[Role.DEVICE].subscribe))
    return {"rolename": Role.DEVICE.value, "acls": acls + _rules("subscribePattern", *_EVERYTHING, allow=False)}


def roles(*, knows_names: bool) -> list[dict[str, Any]]:
    """The roles of the platform's own accounts, and the one of every device.

    `knows_names`: whether the plugin puts an account's name into a role's rules (from Mosquitto 2.1 on).
    """
    own = [_role(role) for role in (Role.ADMIN, Role.PLATFORM, Role.BRIDGE)]
    return [*own, _device_role(knows_names=knows_names)]


def topic_patterns() -> str:
    """The broker's topic patterns (`acl_file`): what an account may publish and receive where its own name stands."""
    device = RULES[Role.DEVICE]
    lines = [f"pattern write {each.format(name='%u')}" for each in device.publish]
    lines += [f"pattern read {each.format(name='%u')}" for each in device.subscribe]
    return "\n".join([*lines, ""])


def write_configuration(path: Path, accounts: list[dict[str, Any]], *, knows_names: bool = False) -> None:
    """Bring our accounts and roles in the plugin's file up to date; devices' accounts in it stay as they are.

    For a broker that is not running: a running one keeps the file in memory and writes over it.
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
