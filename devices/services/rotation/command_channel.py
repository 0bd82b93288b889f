"""Command channel: a broker connection for one exchange of commands and immediate responses.

A disconnected device finds the command in its session at the broker when it reconnects. Its response is not received
then, and not needed: the key of its next signature is the evidence.
"""

import queue
import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

import paho.mqtt.client as mqtt
from django.conf import settings

from devices.services.broker.commands import COMMAND_TOPIC
from devices.services.broker.connection import address_of, make_client
from devices.services.broker.errors import BrokerUnavailable

_CONNECT_SECONDS = 5.0
_MOST_RESPONSE = 64 * 1024


def exchange(slug: str, commands: Mapping[UUID, bytes], *, wait: float) -> dict[UUID, list[bytes]]:
    """Publish a command to each of the tenant's devices. Return their responses within `wait` seconds (unverified).

    Returns when the broker has acknowledged all commands. Raises BrokerUnavailable; some may have been sent then.
    """
    responses: queue.Queue[tuple[UUID, bytes]] = queue.Queue()
    client = _connect(slug, responses)
    try:
        sent = [
            client.publish(COMMAND_TOPIC.format(slug=slug, uuid=uuid), command, qos=1)
            for uuid, command in commands.items()
        ]
        deadline = time.monotonic() + _CONNECT_SECONDS + 0.01 * len(sent)
        for info in sent:
            info.wait_for_publish(max(0.01, deadline - time.monotonic()))
            if not info.is_published():
                raise BrokerUnavailable("The broker does not acknowledge commands.")
        return _collect(responses, commands.keys(), time.monotonic() + wait)
    except (RuntimeError, ValueError) as error:
        raise BrokerUnavailable(f"The broker does not accept commands: {error}") from error
    finally:
        client.disconnect()
        client.loop_stop()


def _connect(slug: str, responses: "queue.Queue[tuple[UUID, bytes]]") -> mqtt.Client:
    address = address_of(settings.MQTT_URL)
    ready: queue.Queue[str] = queue.Queue()
    client = make_client(settings.MQTT_URL, f"gwanje-commands-{uuid4().hex[:12]}")
    client.max_inflight_messages_set(100)

    def on_connect(_client: mqtt.Client, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            ready.put(str(reason))
        else:
            client.subscribe(f"command/{slug}/+/response", qos=1)

    def on_message(_client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        uuid = _device_of(message._topic.decode("utf-8", "replace"))
        if uuid is not None and len(message.payload) <= _MOST_RESPONSE:
            responses.put((uuid, bytes(message.payload)))

    client.on_connect = on_connect
    client.on_subscribe = lambda *_: ready.put("")
    client.on_message = on_message
    try:
        client.connect(address.host, address.port, keepalive=30)
        client.loop_start()
        refusal = ready.get(timeout=_CONNECT_SECONDS)
    except (OSError, queue.Empty) as error:
        client.loop_stop()
        raise BrokerUnavailable("The broker does not respond.") from error
    if refusal:
        client.loop_stop()
        raise BrokerUnavailable(f"The broker rejects the platform's account: {refusal}")
    return client


def _collect(responses: "queue.Queue[tuple[UUID, bytes]]", requests: Any, deadline: float) -> dict[UUID, list[bytes]]:
    """Collect responses until all devices have responded; an old response may precede the expected one."""
    answers: dict[UUID, list[bytes]] = {}
    while len(answers) < len(requests) and (left := deadline - time.monotonic()) > 0:
        try:
            uuid, payload = responses.get(timeout=left)
        except queue.Empty:
            break
        if uuid in requests:
            answers.setdefault(uuid, []).append(payload)
    return answers


def _device_of(topic: str) -> UUID | None:
    try:
        return UUID(topic.split("/")[2])
    except (IndexError, ValueError):
        return None
