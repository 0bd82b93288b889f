"""Streams of a client that sees some devices only: they follow its selector, and the devices that it selects."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection
from django_tenants.utils import schema_context

from devices.domain.selector import Selector
from devices.models import Device, Place
from devices.services import members
from tenants.models import Membership
from tests.api.client import Api
from tests.devices.event_stream_client import Stream, Web
from tests.devices.test_event_stream import change
from tests.factories import Registered, issue_key, make_tenant, make_user, register_device, remove_tenant

from .test_readings_stream import ReadingsStream, store

__all__ = ["store"]

# How long a stream may take at the most, on any machine.
_PATIENCE = 60


@pytest.fixture(scope="module")
def web(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    server = Web(tmp_path_factory.mktemp("web") / "web.log", env={"STREAMS_PER_KEY": "100"})
    yield server
    server.process.stop()


@pytest.fixture
def tenant(live_db: None) -> Iterator[Any]:
    made = make_tenant("selected")
    yield made
    remove_tenant(made)


@pytest.fixture
def key(tenant: Any) -> str:
    with schema_context(tenant.schema_name):
        place = Place.objects.create(key="house", name="house")
    return issue_key(tenant, selector=Selector(tags=("own",), places=(place.pk,)))


def select(device: Registered, **columns: Any) -> None:
    """Change the device by a statement, as imports do."""
    with schema_context(device.tenant.schema_name):
        Device.objects.filter(pk=device.device.pk).update(**columns)


@contextmanager
def repeatedly(step: Callable[[int], None]) -> Iterator[None]:
    """Call the step again and again in a thread."""
    is_over = threading.Event()

    def run() -> None:
        try:
            number = 0
            while not is_over.is_set():
                number += 1
                step(number)
                is_over.wait(0.2)
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def until_without(next_device: Callable[[], str], hidden: Registered, marker: Registered) -> bool:
    """Whether the stream comes to have the marker's events and none of the hidden device between two of them."""
    seen_hidden = True
    for _ in range(1000):
        if next_device() == hidden.uuid:
            seen_hidden = True
        elif not seen_hidden:
            return True
        else:
            seen_hidden = False
    return False


def test_status_events_follow_the_selected_devices(web: Web, tenant: Any, key: str) -> None:
    moving, marker = register_device(tenant), register_device(tenant)
    select(marker, tags=["own"])

    def step(number: int) -> None:
        kind = ("birth", "will")[number % 2]
        change(moving, kind)
        change(marker, kind)

    headers = {"Authorization": f"Bearer {key}"}
    with Stream(web.port, f"/t/{tenant.slug}/api/v1/events/", headers, _PATIENCE) as stream, repeatedly(step):
        assert {stream.event()["device"] for _ in range(4)} == {marker.uuid}
        select(moving, tags=["own"])
        while stream.event()["device"] != moving.uuid:
            pass
        select(moving, tags=[])
        assert until_without(lambda: stream.event()["device"], moving, marker)


def test_readings_follow_the_selected_devices(web: Web, tenant: Any, key: str, store: Any) -> None:
    moving, marker = register_device(tenant), register_device(tenant)
    select(marker, tags=["own"])
    with schema_context(tenant.schema_name):
        house = Place.objects.get(key="house")
    store(moving, 1000)
    store(marker, 1000)
    numbers = {moving.uuid: 1000, marker.uuid: 1000}

    def step(_number: int) -> None:
        for device in (moving, marker):
            numbers[device.uuid] += 1
            store(device, numbers[device.uuid])

    headers = {"Authorization": f"Bearer {key}"}
    path = f"/t/{tenant.slug}/api/v1/readings/stream/"
    with ReadingsStream(web.port, path, headers, _PATIENCE) as stream:
        waiting: list[str] = []

        def next_device() -> str:
            while not waiting:
                waiting.extend(row["device"] for row in stream.read()[1])
            return waiting.pop(0)

        assert stream.read()[0] == "latest"
        with repeatedly(step):
            assert {next_device() for _ in range(4)} == {marker.uuid}
            select(moving, place=house)
            while next_device() != moving.uuid:
                pass
            select(moving, place=None)
            assert until_without(next_device, moving, marker)


def test_a_stream_of_a_member_who_gets_a_selector_is_narrowed(web: Web, tenant: Any, store: Any) -> None:
    """It was opened with all devices in view."""
    hidden, marker = register_device(tenant), register_device(tenant)
    select(marker, tags=["own"])
    user = make_user("limited-later", tenant, "viewer")
    numbers = {hidden.uuid: 0, marker.uuid: 0}

    def step(_number: int) -> None:
        for device in (hidden, marker):
            numbers[device.uuid] += 1
            store(device, numbers[device.uuid])

    cookies = Api(tenant.slug, user=user)._client.cookies
    headers = {"Cookie": "; ".join(f"{name}={morsel.value}" for name, morsel in cookies.items())}
    path = f"/t/{tenant.slug}/api/v1/readings/stream/"
    try:
        with ReadingsStream(web.port, path, headers, _PATIENCE) as stream, repeatedly(step):
            waiting: list[str] = []

            def next_device() -> str:
                while not waiting:
                    waiting.extend(row["device"] for row in stream.read()[1])
                return waiting.pop(0)

            while next_device() != hidden.uuid:
                pass
            with schema_context(tenant.schema_name):
                member = Membership.objects.get(user=user)
                members.change_member(member, selector=Selector(tags=("own",)), acting_user=None)
            assert until_without(next_device, hidden, marker)
    finally:
        user.delete()


def test_the_quarantine_of_other_devices_is_not_in_its_changes(tenant: Any, key: str, store: Any) -> None:
    from telemetry.services.ingest.batch_pipeline import build_pipeline
    from telemetry.services.pipeline.results import Incoming
    from tests import payloads

    own, other = register_device(tenant), register_device(tenant)
    select(own, tags=["own"])
    pipeline = build_pipeline()
    try:
        for number, device in enumerate((own, other)):
            message = payloads.v2(device, {"humidity": 1}, seq=1)
            topic = payloads.topic(device).replace("dht22", "unknown")
            pipeline.process([Incoming(topic, message, datetime.now(UTC), number)])
    finally:
        pipeline.writer.close()
    whole = Api(tenant.slug, key=issue_key(tenant)).get("quarantine/changes/").json()["results"]
    assert {entry["message"]["device"] for entry in whole} == {own.uuid, other.uuid}
    part = Api(tenant.slug, key=key).get("quarantine/changes/").json()["results"]
    assert {entry["message"]["device"] for entry in part} == {own.uuid}
