"""Mosquitto's accounts, through the topic of its dynamic security plugin.

The name and only client id of a device's account is its UUID; the role `device` defines what it may subscribe, the
broker's topic patterns what it may publish. An app's account is named by the prefix of its API key, and a role of its
tenant defines both.
"""

import json
import queue
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import paho.mqtt.client as mqtt
from django.conf import settings

from devices.services.broker.connection import address_of, make_client
from devices.services.broker.errors import BrokerRefused, BrokerUnavailable
from devices.services.broker.topic_rules import Role, rules_of

TOPIC = "$CONTROL/dynamic-security/v1"
_WAIT_SECONDS = 5.0
# Until 2.1 the broker writes all its accounts after each command, 45 ms with 10,000 of them, and serves no client
# meanwhile: a batch must not take longer than this.
_STALL_SECONDS = 0.25
_FIRST_BATCH, _LARGEST_BATCH = 2, 100
_EXISTS, _UNKNOWN, _ROLE_EXISTS = "Client already exists", "Client not found", "Role already exists"

Command = dict[str, Any]


def grant_devices(passwords: Mapping[str, str]) -> None:
    """Create the accounts (name: password), or set the password of existing ones and enable them.

    The broker closes a live session of an existing account.
    """
    existing = create_devices(passwords)
    renewal: list[Command] = []
    for name in existing:
        renewal.append({"command": "setClientPassword", "username": name, "password": passwords[name]})
        renewal.append({"command": "enableClient", "username": name})
    run(renewal)


def create_devices(passwords: Mapping[str, str]) -> list[str]:
    """Create the accounts (name: password). Return the names that exist already, which stay unchanged."""
    answers = run([_new_account(name, password, Role.DEVICE) for name, password in passwords.items()], (_EXISTS,))
    return [name for name, answer in zip(passwords, answers, strict=True) if answer.get("error") == _EXISTS]


def grant_app(slug: str, name: str, password: str) -> None:
    """Create the account of an app of the tenant, and the tenant's role `app:{slug}` if missing.

    As for a device, the account is bound to its name as client id: a client with the id of a device or the platform
    would take over its session, with the messages in it.
    """
    role = f"app:{slug}"
    run([{"command": "createRole", "rolename": role, "acls": _app_rules(slug)}], (_ROLE_EXISTS,))
    run([_new_account(name, password, role)])


def remove(names: Iterable[str]) -> None:
    """Remove the accounts with their sessions and queues; the broker closes live sessions at once."""
    names = list(names)
    commands: list[Command] = []
    for name in names:
        commands += [{"command": "disableClient", "username": name}, {"command": "deleteClient", "username": name}]
    run(commands, (_UNKNOWN,))
    for name in names:
        _discard_session(name)


def allow(names: Iterable[str], allowed: bool) -> None:
    """Enable or disable the accounts; the broker closes live sessions of disabled ones."""
    command = "enableClient" if allowed else "disableClient"
    run([{"command": command, "username": name} for name in names], (_UNKNOWN,))


def disconnect(names: Iterable[str]) -> None:
    """Close live sessions; the accounts stay."""
    commands: list[Command] = []
    for name in names:
        commands += [{"command": "disableClient", "username": name}, {"command": "enableClient", "username": name}]
    run(commands, (_UNKNOWN,))


def accounts() -> dict[str, bool]:
    """Return the names of all accounts with whether they are enabled.

    In one response (1.3 MB for 10,000): with pages, an account removed meanwhile would hide another.
    """
    rows = run([{"command": "listClients", "verbose": True}])[0]["data"]["clients"]
    return {row["username"]: not row.get("disabled", False) for row in rows}


def run(commands: Sequence[Command], tolerated: tuple[str, ...] = ()) -> list[Command]:
    """Return the broker's responses to the commands, over one connection. Raises BrokerUnavailable."""
    if not commands:
        return []
    answers: list[Command] = []
    with _Session() as session:
        for batch in _batches(commands, time.monotonic):
            answers += session.ask(batch)
    _refuse_errors(answers, tolerated)
    return answers


def _batches(commands: Sequence[Command], clock: Callable[[], float]) -> Iterable[Sequence[Command]]:
    """Yield the commands in batches, each sized by the duration of the one before."""
    start, size = 0, _FIRST_BATCH
    while start < len(commands):
        batch, began = commands[start : start + size], clock()
        yield batch
        each = max((clock() - began) / len(batch), 1e-6)
        start += len(batch)
        size = max(1, min(int(_STALL_SECONDS / each), 2 * size, _LARGEST_BATCH))


def _refuse_errors(answers: Iterable[Command], tolerated: tuple[str, ...]) -> None:
    for answer in answers:
        if "error" in answer and answer["error"] not in tolerated:
            raise BrokerRefused(f"The broker refused {answer['command']}: {answer['error']}")


def _discard_session(name: str) -> None:
    """Remove the persistent session of a client id, with its queue: the broker keeps it without an account.

    The administrator takes it over and leaves no session. Where its account has a client id of its own, the session
    stays until the broker expires it.
    """
    address, answered = address_of(settings.MQTT_ADMIN_URL, "MQTT_ADMIN_URL"), list[bool]()
    client = make_client(settings.MQTT_ADMIN_URL, name, clean_session=True, reconnect_on_failure=False)
    client.on_connect = lambda *_: answered.append(True)
    deadline = time.monotonic() + _WAIT_SECONDS
    try:
        client.connect(address.host, address.port, keepalive=10)
        while not answered and client.loop(0.1) == mqtt.MQTT_ERR_SUCCESS and time.monotonic() < deadline:
            pass
    except OSError as error:
        raise BrokerUnavailable(f"The broker at {address} does not discard the session of {name}.") from error
    client.disconnect()
    client.loop(0)


def _new_account(name: str, password: str, role: str) -> Command:
    account = {"username": name, "clientid": name, "password": password, "roles": [{"rolename": str(role)}]}
    return {"command": "createClient", **account}


def _app_rules(slug: str) -> list[Command]:
    """Return the access rules of an app, with denials: a topic without a rule would fall back to the topic patterns."""
    rules = rules_of(Role.APP, slug=slug)
    allowed = {
        "subscribePattern": rules.subscribe,
        "unsubscribePattern": rules.subscribe,
        "publishClientReceive": rules.subscribe,
        "publishClientSend": rules.publish,
    }
    everything = ("#", "$share/#", "$SYS/#", "$CONTROL/#")
    acls = [
        {"acltype": kind, "topic": topic, "priority": 1, "allow": True}
        for kind, topics in allowed.items()
        for topic in topics
    ]
    return acls + [
        {"acltype": kind, "topic": topic, "priority": 0, "allow": False} for kind in allowed for topic in everything
    ]


class _Session:
    """A connection of the broker's administrator, for consecutive exchanges."""

    def __init__(self) -> None:
        self._address = address_of(settings.MQTT_ADMIN_URL, "MQTT_ADMIN_URL")
        self._answers: queue.Queue[Any] = queue.Queue()
        self._ready: queue.Queue[str] = queue.Queue()
        self._client = make_client(settings.MQTT_ADMIN_URL, f"gwanje-admin-{uuid4().hex[:12]}")
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._ready.put("")
        self._client.on_message = lambda _client, _userdata, message: self._answers.put(message.payload)

    def __enter__(self) -> "_Session":
        try:
            self._client.connect(self._address.host, self._address.port, keepalive=30)
            self._client.loop_start()
            refusal = self._ready.get(timeout=_WAIT_SECONDS)
        except (OSError, queue.Empty) as error:
            self.__exit__()
            raise BrokerUnavailable(f"The broker at {self._address} does not respond.") from error
        if refusal:
            self.__exit__()
            raise BrokerUnavailable(f"The broker rejects its administrator: {refusal}")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: mqtt.Client, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._ready.put(str(reason))
        else:
            client.subscribe(f"{TOPIC}/response", qos=1)

    def ask(self, commands: Sequence[Command]) -> list[Command]:
        """Run one exchange. Return the responses in the order of the commands."""
        self._client.publish(TOPIC, json.dumps({"commands": list(commands)}), qos=1)
        try:
            return list(json.loads(self._answers.get(timeout=_WAIT_SECONDS + 0.1 * len(commands)))["responses"])
        except queue.Empty as error:
            raise BrokerUnavailable("The broker did not respond to its administrator in time.") from error
