"""Receives and acknowledges, and does nothing else: what an ordinary paho client can do at most.

A program of its own: `--messages N`. Prints `ready` when it is subscribed, and, when N have come, a JSON object with
`ended` (seconds of the system's monotonic clock) and `messages`. Acknowledgements are given by hand, as a listener
has to; the broker may send 1,000 ahead of them, as to the platform's listener.
"""

import argparse
import json
import os
import time
from typing import Any
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

_AHEAD = 1000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, required=True)
    wanted = parser.parse_args().messages
    got = 0

    def on_message(client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        nonlocal got
        got += 1
        client.ack(message.mid, message.qos)
        if got == wanted:
            print(json.dumps({"ended": time.monotonic(), "messages": got}), flush=True)  # noqa: T201

    def on_connect(client: mqtt.Client, *_: Any) -> None:
        client.subscribe("telemetry/#", qos=1)

    url = urlsplit(os.environ["MQTT_URL"])
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="bench-receiver", protocol=mqtt.MQTTv5, manual_ack=True)
    client.username_pw_set(unquote(url.username or ""), unquote(url.password or ""))
    client.on_message = on_message
    client.on_connect = on_connect
    client.on_subscribe = lambda *_: print("ready", flush=True)  # noqa: T201 (this is what it is started for)
    properties = Properties(PacketTypes.CONNECT)
    properties.ReceiveMaximum = _AHEAD
    client.connect(url.hostname or "localhost", url.port or 1883, clean_start=True, properties=properties)
    client.loop_forever()  # until it is stopped, so that what it cost can still be read


if __name__ == "__main__":
    main()
