"""Devices' and apps' accounts at the broker, kept through Mosquitto's dynamic security topic.

A device's account has its UUID as its name and as its only client id; the role `device` says what may be
subscribed, the broker's topic patterns what may be published. An app's has the first characters of its API key,
and a role of its tenant, which says everything. Where no administrator is configured (`MQTT_ADMIN_URL`), the
broker is expected to ask elsewhere, and nothing is done here.
"""

import json
import logging
import queue
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID, uuid4

import paho.mqtt.client as mqtt
from django.conf import settings
from paho.mqtt.enums import CallbackAPIVersion

logger = logging.getLogger(__name__)

TOPIC = "$CONTROL/dynamic-security/v1"
DEVICE_ROLE = "device"
_WAIT_SECONDS = 5.0
_BATCH = 100
_EXISTS = "Client already exists"


class BrokerUnavailable(Exception):
    """The broker did not do it; `manage.py sync_broker` brings its accounts in step later."""


class BrokerRefused(BrokerUnavailable):
    """The broker answered a command with an error."""


def grant_devices(accounts: Iterable[tuple[UUID, str]]) -> None:
    """Create the devices' accounts (UUID, password), or set the passwords of those that exist.

    Each command makes the broker write its accounts anew (45 ms with 10,000 of them), so there is one for each
    new device.
    """
    passwords = {str(uuid): password for uuid, password in accounts}
    created = _run(
        [
            {
                "command": "createClient",
                "username": name,
                "clientid": name,
                "password": password,
                "roles": [{"rolename": DEVICE_ROLE}],
            }
            for name, password in passwords.items()
        ],
        tolerated=(_EXISTS,),
    )
    existing = [name for name, answer in zip(passwords, created, strict=False) if answer.get("error") == _EXISTS]
    _run(
        [
            command
            for name in existing
            for command in (
                {"command": "setClientPassword", "username": name, "password": passwords[name]},
                {"command": "enableClient", "username": name},
            )
        ]
    )


def revoke_devices(uuids: Iterable[UUID]) -> None:
    """Remove the accounts; a live session is closed by the broker at once."""
    commands: list[dict[str, Any]] = []
    for uuid in uuids:
        commands += [
            {"command": "disableClient", "username": str(uuid)},
            {"command": "deleteClient", "username": str(uuid)},
        ]
    _run(commands, tolerated=("Client not found",))


def grant_app(slug: str, name: str, password: str) -> None:
    """Create the account of one of the tenant's apps, and the tenant's role `app:{slug}` where it is missing.

    Like a device's, the account is bound to one client id, its name: who connects under the client id of a device
    or of the platform takes over its session, with the messages that wait in it. Raises BrokerUnavailable.
    """
    role = f"app:{slug}"
    _run([{"command": "createRole", "rolename": role, "acls": _app_rules(slug)}], tolerated=("Role already exists",))
    account = {"username": name, "clientid": name, "password": password, "roles": [{"rolename": role}]}
    _run([{"command": "createClient", **account}])


def revoke_apps(names: Iterable[str]) -> None:
    """Remove the accounts; a live session is closed by the broker at once."""
    commands: list[dict[str, Any]] = []
    for name in names:
        commands += [{"command": "disableClient", "username": name}, {"command": "deleteClient", "username": name}]
    _run(commands, tolerated=("Client not found",))


def allow_apps(names: Iterable[str], allowed: bool) -> list[str]:
    """Let in, or keep out for a while, the accounts that are not so already. Returns those that were changed.

    Each change makes the broker write all its accounts, so that they are looked at first.
    """
    found = _run([{"command": "getClient", "username": name} for name in names], tolerated=("Client not found",))
    clients = [answer["data"]["client"] for answer in found if "data" in answer]
    changed = [client["username"] for client in clients if client.get("disabled", False) is allowed]
    command = "enableClient" if allowed else "disableClient"
    _run([{"command": command, "username": name} for name in changed], tolerated=("Client not found",))
    return changed


def accounts() -> set[str]:
    """The names of all accounts at the broker."""
    answers = _run([{"command": "listClients", "verbose": False}])
    return set(answers[0]["data"]["clients"]) if answers else set()


def is_managed() -> bool:
    """Whether this platform keeps the broker's accounts."""
    return bool(settings.MQTT_ADMIN_URL)


def _run(commands: Sequence[dict[str, Any]], tolerated: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The broker's answers to the commands. Raises BrokerUnavailable."""
    if not commands or not is_managed():
        return []
    answers: list[dict[str, Any]] = []
    with _Session() as session:
        for start in range(0, len(commands), _BATCH):
            answers += session.ask(commands[start : start + _BATCH])
    for answer in answers:
        if "error" in answer and answer["error"] not in tolerated:
            raise BrokerRefused(f"The broker refused {answer['command']}: {answer['error']}")
    return answers


def _app_rules(slug: str) -> list[dict[str, Any]]:
    """What an app may do, and that it may do nothing else: what no rule names is left to the topic patterns."""
    own = f"client/state/{slug}/#"
    allowed = {
        "subscribePattern": own,
        "unsubscribePattern": own,
        "publishClientReceive": own,
        "publishClientSend": f"client/request_state/{slug}/+",
    }
    everything = ("#", "$share/#", "$SYS/#", "$CONTROL/#")
    return [
        *({"acltype": kind, "topic": topic, "priority": 1, "allow": True} for kind, topic in allowed.items()),
        *({"acltype": kind, "topic": topic, "priority": 0, "allow": False} for kind in allowed for topic in everything),
    ]


class _Session:
    """A connection of the broker's administrator, for one exchange."""

    def __init__(self) -> None:
        url = urlsplit(settings.MQTT_ADMIN_URL)
        self._answers: queue.Queue[Any] = queue.Queue()
        self._ready: queue.Queue[str] = queue.Queue()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"gwanje-admin-{uuid4().hex[:12]}")
        self._client.username_pw_set(unquote(url.username or ""), unquote(url.password or ""))
        if url.scheme == "mqtts":
            self._client.tls_set()
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._ready.put("")
        self._client.on_message = lambda _client, _userdata, message: self._answers.put(message.payload)
        self._address = (url.hostname or "localhost", url.port or 1883)

    def __enter__(self) -> "_Session":
        try:
            self._client.connect(*self._address, keepalive=30)
            self._client.loop_start()
            refusal = self._ready.get(timeout=_WAIT_SECONDS)
        except (OSError, queue.Empty) as error:
            self.__exit__()
            raise BrokerUnavailable(f"The broker at {self._address[0]}:{self._address[1]} does not answer.") from error
        if refusal:
            self.__exit__()
            raise BrokerUnavailable(f"The broker refuses its administrator: {refusal}")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: mqtt.Client, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._ready.put(str(reason))
        else:
            client.subscribe(f"{TOPIC}/response", qos=1)

    def ask(self, commands: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """One exchange: the answers in the order of the commands."""
        self._client.publish(TOPIC, json.dumps({"commands": list(commands)}), qos=1)
        try:
            return list(json.loads(self._answers.get(timeout=_WAIT_SECONDS + 0.1 * len(commands)))["responses"])
        except queue.Empty as error:
            raise BrokerUnavailable("The broker did not answer its administrator in time.") from error
