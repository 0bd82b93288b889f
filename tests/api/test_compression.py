"""gzip of the API's answers."""

import gzip
import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django_tenants.utils import schema_context

from devices.models import Device
from management.quickstart.hardware import install_hardware
from tenants.compression import LEAST_BYTES, accepts_gzip
from tests.devices.event_stream_client import Web
from tests.factories import add_readings, add_series, issue_key, make_device, make_tenant, remove_tenant

from .client import T0, Api


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ("gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("br, *", True),
        ("GZIP", True),
        ("gzip;q=1.0", True),
        ("", False),
        ("gzip;q=0", False),
        ("gzip;q=0.000, br", False),
        ("xgzip", False),
        ("gzip2", False),
        ("identity", False),
    ],
)
def test_accept_encoding(header: str, accepted: bool) -> None:
    assert accepts_gzip(header) is accepted


def get(api: Api, path: str, **headers: str) -> Any:
    sent = {"Accept-Encoding": "gzip"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return api._client.get(f"{api.root}{path}", headers=sent)


@pytest.fixture
def fleet(api: Api, tenant_a: Any) -> Api:
    for number in range(5):
        make_device(tenant_a, f"device {number}", dht22="dht22")
    return api


def test_a_long_answer_is_compressed_for_clients_that_accept_it(fleet: Api) -> None:
    plain, packed = fleet.get("devices/"), get(fleet, "devices/")
    assert "Content-Encoding" not in plain
    assert plain["Vary"] == packed["Vary"]
    assert "Accept-Encoding" in packed["Vary"]
    assert packed["Content-Encoding"] == "gzip"
    assert int(packed["Content-Length"]) == len(packed.content) < len(plain.content)
    assert gzip.decompress(packed.content) == plain.content


def test_a_short_answer_is_not(fleet: Api) -> None:
    assert len(get(fleet, "presence-settings/").content) < LEAST_BYTES
    assert "Content-Encoding" not in get(fleet, "presence-settings/")


def test_answers_to_post_and_pages_are_not(fleet: Api) -> None:
    body = {"name": "x" * 100, "components": [{"key": f"d{n}", "component_type": "dht22"} for n in range(20)]}
    made = fleet._client.post(f"{fleet.root}devices/", body, "application/json", headers={"Accept-Encoding": "gzip"})
    assert len(made.content) > LEAST_BYTES
    assert "Content-Encoding" not in made
    page = fleet._client.get("/t/alpha/admin/login/", headers={"Accept-Encoding": "gzip"})
    assert len(page.content) > LEAST_BYTES
    assert "Content-Encoding" not in page


def test_an_export_is_compressed_as_it_is_sent(fleet: Api, tenant_a: Any) -> None:
    with schema_context(tenant_a.schema_name):
        device = Device.objects.get(name="device 0")
    add_readings(tenant_a, add_series(tenant_a, device, "dht22", "temperature", "°C"), (T0, 21.5))
    path = f"readings/export/?device={device.uuid}&format=ndjson"
    packed, plain = get(fleet, path), fleet.get(path)
    assert packed.streaming
    assert packed["Content-Encoding"] == "gzip"
    assert gzip.decompress(b"".join(packed.streaming_content)) == b"".join(plain.streaming_content)


def test_the_tag_of_a_compressed_answer_serves_as_the_other(fleet: Api, tenant_a: Any) -> None:
    device = make_device(tenant_a, "large", **{f"d{n}": "dht22" for n in range(20)})
    path = f"devices/{device.uuid}/"
    tag = get(fleet, path)["ETag"]
    assert tag.endswith('-gzip"')
    assert get(fleet, path, If_None_Match=tag).status_code == 304
    assert get(fleet, path, If_None_Match=fleet.get(path)["ETag"]).status_code == 304
    changed = fleet._client.patch(f"{fleet.root}{path}", {"name": "y"}, "application/json", headers={"If-Match": tag})
    assert changed.status_code == 200


@pytest.fixture
def own_tenant(live_db: None) -> Iterator[Any]:
    """A tenant with the demonstration hardware: what is committed in `alpha` would be counted by other tests."""
    made = make_tenant("compressed-exports")
    with schema_context(made.schema_name):
        install_hardware()
    yield made
    remove_tenant(made)


def test_a_server_sends_compressed_exports(own_tenant: Any, tmp_path: Path) -> None:
    """The asynchronous way, which Django's test client does not go."""
    device, key = make_device(own_tenant, "exported", dht22="dht22"), issue_key(own_tenant)
    rows = [(T0, float(n)) for n in range(1)]
    add_readings(own_tenant, add_series(own_tenant, device, "dht22", "temperature", "°C"), *rows)
    web = Web(tmp_path / "web.log")
    try:
        client = http.client.HTTPConnection("127.0.0.1", web.port, timeout=30)
        headers = {"Authorization": f"Bearer {key}", "Accept-Encoding": "gzip", "Host": "localhost"}
        path = f"/t/{own_tenant.slug}/api/v1/readings/export/?device={device.uuid}&format=ndjson"
        client.request("GET", path, headers=headers)
        answer = client.getresponse()
        assert (answer.status, answer.getheader("Content-Encoding")) == (200, "gzip")
        lines = gzip.decompress(answer.read()).splitlines()
        assert len(lines) == 2
        assert b'"complete"' in lines[-1]
    finally:
        web.process.stop()
