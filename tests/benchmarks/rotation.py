"""A rotation campaign over devices that go on measuring: not one valid message refused, the old keys dead after it."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.test import override_settings
from django_redis import get_redis_connection
from django_tenants.utils import schema_context

from devices.models import DeviceCredential, RotationCampaign
from devices.services.presence import activity
from devices.services.presence import redis_scripts as scripts
from devices.services.provisioning.registration import IssuedCredentials
from devices.services.rotation import campaigns, steps
from devices.services.rotation.selection import DeviceSelection
from devices.services.vault.secret_store import SecretMissing, provisioner
from management.device_client.gwanje_device import GwanjeDevice
from management.simulator.driver import Driver
from telemetry.models import Message, Quarantined

State = RotationCampaign.State
_PATIENCE_SECONDS = 180.0


@dataclass(slots=True)
class Field:
    """Simulated devices in a thread of their own, sending `rate` messages a second over all of them."""

    slug: str
    issued: Sequence[IssuedCredentials]
    rate: float
    kept: dict[str, tuple[str, str]] = field(default_factory=dict)  # what the devices would have on their cards
    devices: list[GwanjeDevice] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> "Field":
        self.devices = [self._device(credentials) for credentials in self.issued]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(60)

    @property
    def sent(self) -> int:
        """Messages that the devices have measured and signed."""
        return sum(device.seq for device in self.devices)

    @property
    def pending(self) -> int:
        """Messages that the broker has not acknowledged."""
        return sum(device.pending for device in self.devices)

    def _device(self, credentials: IssuedCredentials) -> GwanjeDevice:
        uuid = str(credentials.uuid)
        return GwanjeDevice(
            uuid,
            credentials.secret,
            settings.MQTT_HOST,
            settings.MQTT_PORT,
            self.slug,
            credentials.mqtt_password,
            kid=str(credentials.key_version),
            on_key=lambda kid, secret: self.kept.__setitem__(uuid, (kid, secret)),
            reconnect_delay=(0.2, 2.0),
        )

    def _run(self) -> None:
        driver, number, began = Driver(self.devices), 0, time.monotonic()
        while not self._stop.is_set():
            while number < (time.monotonic() - began) * self.rate:
                device = self.devices[number % len(self.devices)]
                device.send("dht22", {"value": {"temp": 20 + number % 10, "humidity": 50}})
                device.turn()
                number += 1
            driver.serve(0.005)
        driver.serve_until(lambda: not self.pending, 30)
        driver.leave(5)


def run(
    *,
    tenant: Any,
    issued: Sequence[IssuedCredentials],
    rate: float,
    say: Callable[[str], None],
    spec_ttl: float = 2.0,
    disturb: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Rotate the keys of these devices under load and count. `disturb` is called once the keys are being issued.

    The broker, Vault, PostgreSQL and Redis are those of the settings; the listener is a process of its own.
    """
    listener, began, redis = _listener(spec_ttl), activity.redis_now(), get_redis_connection("default")
    try:
        # The broker keeps nothing for a listener that it has never seen.
        _wait(lambda: float(redis.hget(scripts.LISTENING, "last") or 0) > began, "a listener")
        with override_settings(INGEST_SPEC_TTL=spec_ttl, ROTATION_GRACE_SECONDS=2.0):
            with Field(tenant.slug, issued, rate) as devices:
                say(f"{len(issued)} devices, {rate:g} messages a second")
                _wait(lambda: _stored(tenant, issued, devices=True) == len(issued), "not every device is heard")
                figures = _rotate(tenant, issued, say, disturb)
                time.sleep(1)
            sent = devices.sent
            _wait(
                lambda: _stored(tenant, issued) + _refused(tenant, issued) >= sent and not _deferred(tenant), "messages"
            )
            stored, refused = _stored(tenant, issued), _refused(tenant, issued)
            dead = _old_keys_refused(tenant, issued)
    finally:
        listener.terminate()
        listener.wait()
    return {
        "devices": len(issued),
        "messages_per_second": rate,
        "messages": sent,
        "stored": stored,
        "refused": refused,
        "lost": sent - stored - refused,
        **figures,
        "old_keys_refused": dead,
        "old_keys_in_vault": _left_in_vault(tenant, issued),
    }


def _rotate(
    tenant: Any, issued: Sequence[IssuedCredentials], say: Callable[[str], None], disturb: Callable[[], None]
) -> dict[str, Any]:
    began = time.monotonic()
    with schema_context(tenant.schema_name):
        campaign = campaigns.start(
            name="Benchmark",
            selection=DeviceSelection(uuids=[credentials.uuid for credentials in issued]),
            deadline=datetime.now(UTC) + timedelta(hours=1),
        )
        disturber = threading.Timer(0.05, disturb)
        disturber.start()
        moved_after = 0.0
        while campaign.state != State.ENDED:
            said = steps.step(campaign.pk)
            campaign.refresh_from_db()
            progress = campaigns.progress(campaign)
            say(said)
            if not moved_after and progress.confirmed == progress.devices:
                moved_after = time.monotonic() - began
            if time.monotonic() - began > _PATIENCE_SECONDS:
                raise TimeoutError(f"the campaign does not end: {progress}, {campaign.state}")
            time.sleep(0.5)
        disturber.join()
    return {
        "moved": progress.confirmed,
        "seconds_until_all_moved": round(moved_after, 1),
        "seconds_until_ended": round(time.monotonic() - began, 1),
    }


def _old_keys_refused(tenant: Any, issued: Sequence[IssuedCredentials]) -> int:
    """How many of the devices' old keys sign nothing any more: each is tried once, on its own connection."""
    before = _refused(tenant, issued)
    with Field(tenant.slug, issued, rate=0) as devices:
        _wait(lambda: all(device.connected for device in devices.devices), "connections")
        for device in devices.devices:
            device.send("dht22", {"value": {"temp": 1}})
        _wait(lambda: not devices.pending, "acknowledgements")
        # A birth is signed too: each device is refused for both.
        _wait(lambda: _refused(tenant, issued) - before >= 2 * len(issued), "refusals")
        return _refused(tenant, issued, topic="telemetry/") - before


def _left_in_vault(tenant: Any, issued: Sequence[IssuedCredentials]) -> int:
    left = 0
    for credentials in issued:
        try:
            provisioner().read(tenant.schema_name, credentials.uuid, credentials.key_version)
        except SecretMissing:
            continue
        left += 1
    return left


def _stored(tenant: Any, issued: Sequence[IssuedCredentials], *, devices: bool = False) -> int:
    with schema_context(tenant.schema_name):
        stored = Message.objects.filter(device__in=_ids(issued), topic__startswith="telemetry/")
        return stored.values("device").distinct().count() if devices else stored.count()


def _refused(tenant: Any, issued: Sequence[IssuedCredentials], topic: str = "") -> int:
    uuids = {str(credentials.uuid) for credentials in issued}
    with schema_context(tenant.schema_name):
        rows = Quarantined.objects.filter(topic__startswith=topic).exclude(reason="key_unavailable")
        return sum(count for name, count in rows.values_list("topic", "count") if uuids & set(name.split("/")))


def _deferred(tenant: Any) -> int:
    with schema_context(tenant.schema_name):
        return Quarantined.objects.filter(reason="key_unavailable").count()


def _ids(issued: Sequence[IssuedCredentials]) -> list[int]:
    uuids = [credentials.uuid for credentials in issued]
    keys = DeviceCredential.objects.filter(device__uuid__in=uuids)
    return list(keys.values_list("device", flat=True).distinct())


def _settle(count: Callable[[], int]) -> None:
    """Until the count no longer changes: the listener has worked off what it had."""
    before, unchanged = -1, 0
    while unchanged < 4:
        time.sleep(0.5)
        now = count()
        unchanged = unchanged + 1 if now == before else 0
        before = now


def _listener(spec_ttl: float) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "INGEST_SPEC_TTL": str(spec_ttl), "MQTT_CLIENT_ID": "listener-of-the-rotation"}
    command = [sys.executable, "manage.py", "run_mqtt_listener"]
    log = (settings.VAR_DIR / "rotation-listener.log").open("ab")
    return subprocess.Popen(command, stdout=log, stderr=log, cwd=settings.BASE_DIR, env=environment)


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {_PATIENCE_SECONDS:.0f} s")
        time.sleep(0.1)
