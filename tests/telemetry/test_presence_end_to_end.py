"""Devices that go in four ways, and Redis emptied meanwhile: on a real broker, listener and checker."""

import json
import time
from collections.abc import Callable, Iterator

import pytest
from django_redis import get_redis_connection
from django_tenants.utils import schema_context

from management.embedded.stack import EmbeddedStack
from tests import payloads
from tests.factories import Registered
from tests.mqtt import RawClient
from tests.processes import Process, wait_until
from tests.telemetry.test_ingest import status

# Mosquitto notices silence after one and a half keep-alives and up to six seconds more.
KEEPALIVE = 2


@pytest.fixture
def platform(start: Callable[..., Process], live_db: None) -> Iterator[None]:
    """A listener and two checkers."""
    listener = start("manage.py", "run_mqtt_listener", "--client-id", "presence-under-test")
    for _ in range(2):
        start("manage.py", "check_device_health", "--interval", "0.2")
    listener.wait_for("Connected to the broker")
    yield
    with RawClient.of_url("MQTT_URL", client_id="presence-under-test", clean=True):
        pass


@pytest.fixture
def device(register: Callable[..., Registered]) -> Registered:
    """Its timeout is three seconds."""
    from devices.models import Device

    registered = register()
    with schema_context(registered.tenant.schema_name):
        Device.objects.filter(pk=registered.device.pk).update(timeout_seconds=3)
    return registered


class Connection(RawClient):
    """A device's connection, with a session of its own in its will and its birth."""

    def __init__(self, device: Registered, session: str, ago: float = 0.0) -> None:
        will = json.dumps({"device_uuid": device.uuid, "status": "OFFLINE", "session": session}).encode()
        self._topics = f"device/lwt/{device.uuid}", f"device/birth/{device.uuid}"
        self._device, self._will = device, will
        super().__init__(device.uuid, device.mqtt_password, will=(self._topics[0], will, False), keepalive=KEEPALIVE)
        self._session, self._ago = session, ago

    def __enter__(self) -> "Connection":
        super().__enter__()
        members = {
            "device_uuid": self._device.uuid,
            "session": self._session,
            "timestamp": payloads.timestamp(self._ago),
        }
        token = payloads.token(members, self._device.secret, self._device.kid)
        self.publish_acknowledged(self._topics[1], token)
        return self

    def leave(self) -> None:
        """As a device that is switched off in order."""
        self.publish_acknowledged(self._topics[0], self._will)
        self.client.disconnect()
        self.client.loop_stop()


def reaches(device: Registered, state: str, timeout: float) -> list[tuple[str, str, str]]:
    """The ledger, once the status is reached."""
    wait_until(lambda: status(device)[0] == state, timeout, lambda: f"{status(device)}")
    return status(device)[1]


ARRIVED = ("UNKNOWN", "ONLINE", "birth")


def test_the_network_is_cut(platform: None, device: Registered) -> None:
    """The socket goes without a DISCONNECT: the broker publishes the will."""
    connection = Connection(device, "s1").__enter__()
    reaches(device, "ONLINE", 5)
    connection.drop()
    assert reaches(device, "OFFLINE", 3) == [ARRIVED, ("ONLINE", "OFFLINE", "will")]


def test_a_board_that_connects_before_it_knows_the_time(platform: None, device: Registered) -> None:
    """Its clock is two weeks behind, as after a start without a network: the will of this connection counts."""
    first = Connection(device, "boot1").__enter__()
    reaches(device, "ONLINE", 60)
    first.drop()
    reaches(device, "OFFLINE", 60)
    second = Connection(device, "boot2", ago=14 * 86400).__enter__()
    reaches(device, "ONLINE", 60)
    second.publish_acknowledged(payloads.topic(device), payloads.v2(device, {"temp": 20}, seq=1))
    second.drop()
    assert reaches(device, "OFFLINE", 60)[-2:] == [("OFFLINE", "ONLINE", "birth"), ("ONLINE", "OFFLINE", "will")]


def test_the_process_hangs_while_the_connection_lives(platform: None, device: Registered) -> None:
    """Keep-alive is answered and nothing is measured: only its silence tells."""
    with Connection(device, "s1") as connection:
        assert reaches(device, "TIMEOUT", 10) == [ARRIVED, ("ONLINE", "TIMEOUT", "timeout")]
        assert connection.client.is_connected()
        connection.publish_acknowledged(payloads.topic(device), payloads.v2(device, {"temp": 20}, seq=1))
        assert reaches(device, "ONLINE", 5)[-1] == ("TIMEOUT", "ONLINE", "telemetry")


def test_it_disconnects_cleanly(platform: None, device: Registered) -> None:
    """It says so itself, since a broker publishes no will then."""
    connection = Connection(device, "s1").__enter__()
    reaches(device, "ONLINE", 5)
    connection.leave()
    assert reaches(device, "OFFLINE", 3) == [ARRIVED, ("ONLINE", "OFFLINE", "will")]


def test_it_reconnects_within_the_keep_alive(platform: None, device: Registered) -> None:
    """The new connection takes the old one over: its will comes, and changes nothing that lasts."""
    from devices.models import IgnoredWill

    first = Connection(device, "s1").__enter__()
    reaches(device, "ONLINE", 5)
    first.client.loop_stop()  # its network is gone, and the broker has not noticed
    with Connection(device, "s2") as second:
        for seq in range(1, 30):
            second.publish_acknowledged(payloads.topic(device), payloads.v2(device, {"temp": 20}, seq=seq))
            time.sleep(0.1)
        # Whichever of will and birth the broker sent first: at the end it is there, and the ledger chains.
        final, changes = status(device)
        assert final == "ONLINE"
        assert [change[0] for change in changes[1:]] == [change[1] for change in changes[:-1]]
        assert [change for change in changes if change[2] == "timeout"] == []
        with schema_context(device.tenant.schema_name):
            ignored = IgnoredWill.objects.filter(device=device.device).count()
        assert len(changes) == 1 or (len(changes) == 3 and ignored == 0)


def test_redis_is_emptied_while_devices_report(platform: None, register: Callable[..., Registered]) -> None:
    """Every state is right again within a pass, and nothing false is in the ledger."""
    from devices.models import Device

    talking, silent = register(), register()
    with schema_context(talking.tenant.schema_name):
        Device.objects.filter(pk__in=[talking.device.pk, silent.device.pk]).update(timeout_seconds=4)
    with Connection(talking, "t1") as connection, Connection(silent, "s1"):
        for registered in (talking, silent):
            reaches(registered, "ONLINE", 5)
        for seq in range(1, 60):
            if seq in (5, 20):
                get_redis_connection("default").flushall()
            connection.publish_acknowledged(payloads.topic(talking), payloads.v2(talking, {"temp": 20}, seq=seq))
            time.sleep(0.2)
        assert status(talking) == ("ONLINE", [ARRIVED])
        # The one that fell silent is found, although Redis forgot its deadline twice.
        assert reaches(silent, "TIMEOUT", 10) == [ARRIVED, ("ONLINE", "TIMEOUT", "timeout")]
        assert get_redis_connection("default").zscore("device_deadline", f"{talking.tenant.schema_name}:{talking.uuid}")


def test_nobody_listens_so_silence_says_nothing(
    start: Callable[..., Process], device: Registered, platform: None, stack: EmbeddedStack
) -> None:
    """The database is unavailable for longer than the timeout while the device goes on reporting."""
    with Connection(device, "s1") as connection:
        reaches(device, "ONLINE", 5)
        stack.stop_server("postgres")
        try:
            for seq in range(1, 30):
                connection.publish_acknowledged(payloads.topic(device), payloads.v2(device, {"temp": 20}, seq=seq))
                time.sleep(0.2)
        finally:
            stack.start_server("postgres")
            stack.wait_ready("postgres", 15)
        from django.db import connection as database

        database.close()
        for seq in range(30, 50):
            connection.publish_acknowledged(payloads.topic(device), payloads.v2(device, {"temp": 20}, seq=seq))
            time.sleep(0.2)
        database.close()
        assert status(device) == ("ONLINE", [ARRIVED])
