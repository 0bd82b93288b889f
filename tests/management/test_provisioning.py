"""The whole way of a board, on real servers: preregister, claim, fetch, publish over MQTT, read at the API."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen
from uuid import uuid4

import pytest
from django_tenants.utils import schema_context

from devices.services.api_keys import issue_api_key
from devices.services.provisioning import claims
from management.device_client.gwanje_device import fetch_credentials
from tenants.infrastructure.spreadsheets import TableRow
from tenants.models import PreregisteredDevice
from tenants.services import enrollment
from tests.processes import Process, free_port, wait_until


@pytest.fixture
def web(live_db: None, start: Callable[..., Process]) -> str:
    """A real web server's address."""
    port = free_port()
    start(
        "-m", "uvicorn", "config.asgi:application", "--port", str(port), "--log-level", "warning",
        env={"DATABASE_POOL": "1", "FETCH_RETRY_SECONDS": "1"},
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return bool(urlopen(f"{address}/healthz").status == 200)
        except URLError:
            return False

    wait_until(answers, 60)
    return address


@pytest.fixture
def board(live_db: None) -> enrollment.IssuedCodes:
    cells = {"serial": f"GB-{uuid4().hex[:8]}", "hardware_model": "GreenBox 1.2", "components": "dht22;second:dht22"}
    return enrollment.preregister([TableRow(2, cells)])[0]


def card(tmp_path: Path, web: str, token: str, **more: Any) -> Path:
    path = tmp_path / "config.json"
    url = f"{web}/api/v1/provisioning/credentials/"
    path.write_text(json.dumps({"provisioning_url": url, "fetch_token": token, "interval": 0.2, **more}))
    return path


def ask(web: str, path: str, key: str, body: dict[str, Any] | None = None) -> Any:
    request = Request(f"{web}/t/alpha/api/v1/{path}", json.dumps(body).encode() if body else None)
    request.add_header("Authorization", f"Bearer {key}")
    request.add_header("Content-Type", "application/json")
    with urlopen(request) as answer:
        return json.load(answer)


def test_from_the_label_to_the_reading(
    web: str, board: enrollment.IssuedCodes, tmp_path: Path, tenant_a: Any, start: Callable[..., Process]
) -> None:
    with schema_context(tenant_a.schema_name):
        key = issue_api_key(name="claims", scope="write")[1]
    start("manage.py", "run_mqtt_listener").wait_for("Connected to the broker")
    config = card(tmp_path, web, board.fetch_token)
    device = start("management/device_client/gwanje_device.py", str(config))
    device.wait_for("no credentials yet (not_claimed)")
    claimed = ask(web, "claims/", key, {"serial": board.device.serial, "code": board.claim_code})
    device.wait_for(f"the credentials of {claimed['uuid']}")

    def readings() -> list[Any]:
        return list(ask(web, f"devices/{claimed['uuid']}/latest/", key)["results"])

    found = wait_until(readings, 180, lambda: device.log.read_text()[-2000:])
    assert {reading["component"] for reading in found} == {"dht22"}
    # The listener reports presence after the commit that makes a reading visible.
    wait_until(lambda: ask(web, f"devices/{claimed['uuid']}/", key)["status"] == "ONLINE")
    assert config.stat().st_mode & 0o777 == 0o600
    assert board.claim_code not in config.read_text()
    # A copy of the card comes too late.
    (tmp_path / "copy").mkdir()
    copy = card(tmp_path / "copy", web, board.fetch_token)
    with pytest.raises(SystemExit, match="already_fetched"):
        fetch_credentials(copy)
    assert device.stop() == 0


def test_an_answer_that_was_lost_is_heard_again_and_a_new_fetch_when_it_is_allowed(
    web: str, board: enrollment.IssuedCodes, tmp_path: Path, tenant_a: Any
) -> None:
    with schema_context(tenant_a.schema_name):
        device = claims.claim(board.device.serial, board.claim_code).device
    config = card(tmp_path, web, board.fetch_token, attempt="the power failed right after it asked")
    assert fetch_credentials(config)
    first = json.loads(config.read_text())
    card(tmp_path, web, board.fetch_token, attempt=first["attempt"])  # what was on the card before
    assert fetch_credentials(config)
    assert json.loads(config.read_text())["secret"] == first["secret"]
    with schema_context(tenant_a.schema_name):
        claims.reset_credentials(device)
    assert fetch_credentials(config, again=True)
    second = json.loads(config.read_text())
    assert second["uuid"] == first["uuid"]
    assert second["secret"] != first["secret"]
    assert PreregisteredDevice.objects.get(pk=board.device.pk).repeated_requests == 0


def test_a_platform_that_is_away_is_asked_again(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("management.device_client.gwanje_device.FETCH_EVERY", 0.05)
    port = free_port()
    config = card(tmp_path, f"http://127.0.0.1:{port}", "gwf_x")

    class Stop:
        asked = 0

        def is_set(self) -> bool:
            return self.asked >= 3

        def wait(self, seconds: float) -> None:
            self.asked += 1
            time.sleep(seconds)

    assert fetch_credentials(config, stop=Stop()) is False  # type: ignore[arg-type]
    kept = json.loads(config.read_text())["attempt"]
    assert fetch_credentials(config, stop=Stop()) is False  # type: ignore[arg-type]
    assert json.loads(config.read_text())["attempt"] == kept, "it stays one attempt"
