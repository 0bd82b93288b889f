"""A device takes a new key: from signed commands only, stored before it is used, and rolled back on command."""

import json
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from devices.services.broker import commands
from devices.services.rotation import secret_transport
from management.device_client.gwanje_device import GwanjeDevice, sign_v2
from tests.processes import wait_until

from .mosquitto import Broker, Listener, broker_fixture, listener_fixture  # noqa: F401 (fixtures)
from .signed import is_signed, opened

ID = "0d0b2a52-6a9e-4a55-9d68-0a6f0c8a1f11"
OLD, NEW = "the-old-secret-of-the-device", "the-new-secret-of-the-device"
TOPIC = f"command/demo/{ID}/request"
MakeDevice = Callable[..., GwanjeDevice]


@pytest.fixture
def device(broker: Broker, tmp_path: Path) -> Iterator[MakeDevice]:
    made: list[GwanjeDevice] = []

    def make(**options: Any) -> GwanjeDevice:
        options = {"state_dir": tmp_path / "state", "reconnect_delay": (0.05, 0.2), "secret": OLD, **options}
        made.append(GwanjeDevice(ID, options.pop("secret"), "127.0.0.1", broker.port, "demo", "pw", **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def rotate(
    *, secret: str = OLD, kid: int = 1, new_kid: int = 2, uuid: str = ID, encrypted_for: str = ID, **members: Any
) -> bytes:
    """A `rotate_key` command as the platform makes it."""
    sealed = secret_transport.encrypt_secret(NEW, OLD, uuid=UUID(encrypted_for), old_version=1, new_version=new_kid)
    claims = {"id": "c", "device_uuid": uuid, "command": "rotate_key", "kid": str(new_kid), **sealed, **members}
    return commands.sign(claims, secret.encode(), kid)


def use(kid: int, *, secret: str = NEW, signed_with: int = 2) -> bytes:
    claims = {"id": "u", "device_uuid": ID, "command": "use_key", "kid": str(kid)}
    return commands.sign(claims, secret.encode(), signed_with)


def answer(broker: Broker, listener: Listener, command: bytes) -> bytes:
    """Send the command; the device's answer."""
    count = len(listener.on(f"command/demo/{ID}/response"))
    broker.publish(TOPIC, command)
    return listener.wait(f"command/demo/{ID}/response", count + 1)[-1].payload


def connected(one: GwanjeDevice) -> GwanjeDevice:
    one.start()
    wait_until(lambda: one.connected, 60, "the device's connection")
    time.sleep(0.1)  # its subscription
    return one


def test_it_takes_a_new_key_confirms_with_it_and_signs_with_it(
    broker: Broker, listener: Listener, device: MakeDevice
) -> None:
    one = connected(device())
    said = answer(broker, listener, rotate())
    assert is_signed(said, NEW), "the answer shows that it holds the key"
    assert opened(said)["status"] == "ok"
    assert opened(said)["result"] == {"command": "rotate_key", "kid": "2"}
    one.send("dht22", {"value": {"temp": 1}})
    message = listener.wait("telemetry/", 1)[0].payload
    assert is_signed(message, NEW)
    again = answer(broker, listener, rotate())
    assert opened(again)["status"] == "ok", "a command may come twice"


def forged(command: bytes) -> bytes:
    """Return the command with another signature. The last character would not do: two of its bits say nothing."""
    content, _, signature = command.rpartition(b".")
    return content + b"." + (b"B" if signature.startswith(b"A") else b"A") + signature[1:]


@pytest.mark.parametrize(
    "command",
    [
        rotate(secret=NEW),
        rotate(kid=7),
        rotate(uuid="6d1f0000-0000-4000-8000-000000000000"),
        rotate(encrypted_for="6d1f0000-0000-4000-8000-000000000000"),
        rotate(new_kid=0),
        rotate(command="forget everything"),
        rotate(salt="AAAA"),
        forged(rotate()),
        sign_v2({"device_uuid": ID, "command": "rotate_key", "kid": "2", "id": "c"}, OLD, "1").encode(),
        json.dumps({"id": "c", "command": "rotate_key", "kid": "2", "secret": NEW}).encode(),
        b"not a command",
        b"a.b.c",
        use(1),
    ],
    ids=[
        "signed with another key",
        "signed with a key that is not held",
        "for another device",
        "encrypted for another device",
        "an older key",
        "an unknown command",
        "another salt",
        "another signature",
        "a telemetry message",
        "not signed",
        "not JSON",
        "not a token",
        "back to a key, signed with one that is not held",
    ],
)
def test_what_is_not_signed_for_it_changes_nothing(
    broker: Broker, listener: Listener, device: MakeDevice, command: bytes
) -> None:
    one = connected(device())
    said = answer(broker, listener, command)
    assert is_signed(said, OLD)
    assert opened(said)["status"] == "error"
    assert NEW not in opened(said)["detail"]
    assert (one.kid, one.secret) == ("1", OLD)


def test_it_goes_back_when_it_is_told_and_forth_again(broker: Broker, listener: Listener, device: MakeDevice) -> None:
    one = connected(device())
    answer(broker, listener, rotate())
    said = answer(broker, listener, use(1))
    assert is_signed(said, OLD)
    assert opened(said)["result"] == {"command": "use_key", "kid": "1"}
    assert opened(answer(broker, listener, use(2, secret=OLD, signed_with=1)))["result"]["kid"] == "2"
    assert one.secret == NEW


def test_a_new_key_survives_a_restart_with_the_old_configuration(
    broker: Broker, listener: Listener, device: MakeDevice, tmp_path: Path
) -> None:
    one = connected(device())
    answer(broker, listener, rotate())
    one.close()
    assert device().kid == "2"
    file = tmp_path / "state" / f"{ID}.sqlite3"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600, "it holds a secret"


def test_a_configuration_with_another_key_goes_before_what_is_stored(
    broker: Broker, listener: Listener, device: MakeDevice
) -> None:
    one = connected(device())
    answer(broker, listener, rotate())
    one.close()
    carried = device(secret="carried-there-by-a-person", kid="3")
    assert (carried.kid, carried.secret) == ("3", "carried-there-by-a-person")
    carried.close()
    assert device(secret="registered-anew", kid="1").secret == "registered-anew"


def test_what_waits_is_signed_with_the_key_in_use(broker: Broker, listener: Listener, device: MakeDevice) -> None:
    """Its content stays, byte for byte: the platform takes it for the same message."""
    one = device()
    for number in range(3):
        one.send("dht22", {"value": {"temp": number}})
    before = [payload for _, _, payload in one.outbox.after(0, 10)]
    assert all(is_signed(payload, OLD) for payload in before)
    one.close()
    connected(device(secret=NEW, kid="2"))
    after = [message.payload for message in listener.wait("telemetry/", 3)]
    assert all(is_signed(payload, NEW) for payload in after)
    assert [payload.split(b".")[1] for payload in after] == [payload.split(b".")[1] for payload in before]


def test_a_device_that_cannot_keep_a_key_says_so(broker: Broker, listener: Listener, device: MakeDevice) -> None:
    one = connected(device(state_dir=None))
    said = opened(answer(broker, listener, rotate()))
    assert (said["status"], one.kid) == ("error", "1")
    assert "cannot keep a key" in said["detail"]


def test_a_key_is_kept_elsewhere_before_it_is_used(broker: Broker, listener: Listener, device: MakeDevice) -> None:
    kept: list[tuple[str, str]] = []
    one = connected(device(state_dir=None, on_key=lambda kid, secret: kept.append((kid, secret))))
    answer(broker, listener, rotate())
    assert kept == [("2", NEW)]
    assert one.kid == "2"


def test_a_full_disk_leaves_it_with_its_key(
    broker: Broker, listener: Listener, device: MakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = connected(device())

    def full(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(one.outbox, "keep_key", full)
    assert opened(answer(broker, listener, rotate()))["status"] == "error"
    assert one.kid == "1"
