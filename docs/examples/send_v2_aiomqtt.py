"""Sends one measurement of signature version 2 with aiomqtt: python send_v2_aiomqtt.py config.json dht22"""

import asyncio
import base64
import hashlib
import hmac
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import aiomqtt


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(message: dict, config: dict) -> str:
    header = {"alg": "HS256", "kid": str(config["kid"])}
    signed = ".".join(encode(json.dumps(part).encode()) for part in (header, message))
    return f"{signed}.{encode(hmac.digest(config['secret'].encode(), signed.encode(), hashlib.sha256))}"


async def main(path: str, component: str) -> None:
    config = json.loads(Path(path).read_text())
    uuid, boot = config["uuid"], int(time.time())  # a real device stores the boot, and counts it up at each start
    session, timestamp = f"{boot}-1", datetime.now(UTC).isoformat()
    will = json.dumps({"device_uuid": uuid, "status": "OFFLINE", "session": session})
    # A new client for each connection: its will has a session of its own.
    async with aiomqtt.Client(
        config["host"],
        config["port"],
        username=uuid,
        password=config["mqtt_password"],
        identifier=uuid,
        clean_session=False,
        protocol=aiomqtt.ProtocolVersion.V311,
        keepalive=30,
        will=aiomqtt.Will(f"device/lwt/{uuid}", will, qos=1),
    ) as client:
        birth = {"device_uuid": uuid, "session": session, "timestamp": timestamp}
        await client.publish(f"device/birth/{uuid}", sign(birth, config), qos=1)
        message = {"timestamp": timestamp, "device_uuid": uuid, "component": component, "boot": boot, "seq": 1}
        message["value"] = {"temp": 21.5, "humidity": 44}
        await client.publish(f"telemetry/{config['tenant']}/{uuid}/{component}", sign(message, config), qos=1)
        print("acknowledged")  # noqa: T201 (the output of an example)


asyncio.run(main(*sys.argv[1:]))
