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

from .files import write_json

Rule = dict[str, Any]

ADMIN, PLATFORM, BRIDGE, DEVICE = "admin", "platform", "bridge", "device"
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


def _role(name: str, *, subscribe: tuple[str, ...] = (), send: tuple[str, ...] = ()) -> dict[str, Any]:
    """What may be subscribed is also received, except for devices, whose deliveries the topic patterns rule."""
    rules = _rules("subscribePattern", *subscribe, *(f"$share/+/{topic}" for topic in subscribe))
    rules += _rules("subscribePattern", *_EVERYTHING, allow=False)
    rules += _rules("publishClientSend", *send) + _rules("publishClientReceive", *subscribe)
    return {"rolename": name, "acls": rules}


def roles() -> list[dict[str, Any]]:
    """The roles of the platform's own accounts, and the one of every device."""
    control = "$CONTROL/dynamic-security/#"
    # The plugin knows no place for the account's name, so the role names every device's commands; a device that
    # subscribes another's is delivered nothing, as the topic pattern for reading holds its own name.
    device = _rules("subscribePattern", "command/+/+/request")
    return [
        _role(ADMIN, subscribe=(control,), send=(control,)),
        _role(
            PLATFORM,
            subscribe=("telemetry/#", "device/#", "client/request_state/#", "command/+/+/response"),
            send=("client/state/#", "command/+/+/request"),
        ),
        _role(BRIDGE, send=("telemetry/#", "device/birth/+", "device/lwt/#")),
        {"rolename": DEVICE, "acls": device + _rules("subscribePattern", *_EVERYTHING, allow=False)},
    ]


def write_configuration(path: Path, accounts: list[dict[str, Any]]) -> None:
    """Bring our accounts and roles in the plugin's file up to date; devices' accounts in it stay as they are.

    For a broker that is not running: a running one keeps the file in memory and writes over it.
    """
    kept = json.loads(path.read_text()) if path.exists() else {}
    ours = {row["username"] for row in accounts}, {row["rolename"] for row in roles()}
    kinds = ("publishClientSend", "publishClientReceive", "subscribe", "unsubscribe")
    kept["defaultACLAccess"] = dict.fromkeys(kinds, False)
    kept["clients"] = accounts + [row for row in kept.get("clients", []) if row["username"] not in ours[0]]
    kept["roles"] = roles() + [row for row in kept.get("roles", []) if row["rolename"] not in ours[1]]
    kept.setdefault("groups", [])
    write_json(path, kept)
