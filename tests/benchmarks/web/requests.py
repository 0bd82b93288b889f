"""The requests that are measured, each with a check of its answer against the stored rows."""

import http.client
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from .data import COMPONENT, METRICS, BenchTenant

_READINGS = 300
_EXPORT_DAYS = 30


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A GET of `path` that is repeated `times` times; `verify` raises AssertionError for a wrong answer.

    `rows` is how many readings or devices an answer has; `goal_ms` the goal for its processor time in all.
    """

    name: str
    path: str
    key: str
    verify: Callable[[bytes], None]
    times: int
    status: int = 200
    rows: int = 1
    goal_ms: float | None = None


class ApiClient:
    """One connection to a web server, kept open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def get(self, request: ApiRequest) -> bytes:
        """Return the body. Raises AssertionError for another status than the request's."""
        headers = {"Authorization": f"Bearer {request.key}", "Host": "localhost", "Accept": "*/*"}
        self._connection.request("GET", request.path, headers=headers)
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != request.status:
            raise AssertionError(f"{request.path}: {answer.status} {body[:500]!r}")
        return body

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def requests_of(many: BenchTenant, few: BenchTenant, scale: float) -> list[ApiRequest]:
    """Return the requests: of a tenant with readings of many months, and of one with readings of a month."""

    def times(count: int) -> int:
        return max(1, round(scale * count))

    base, key = f"/t/{many.tenant.slug}/api/v1", many.key
    readings = _readings_path(base, many)
    thousand = min(1000, many.devices)
    return [
        ApiRequest("latest", _latest_path(many), key, _latest(many), times(400), goal_ms=5),
        ApiRequest("latest_of_one_month", _latest_path(few), few.key, _latest(few), times(400), goal_ms=5),
        ApiRequest("readings_300", readings, key, _page_of_readings(many), times(200), rows=_READINGS, goal_ms=8),
        ApiRequest("device", f"{base}/devices/{many.dense}/", key, _device(many), times(200), goal_ms=9),
        ApiRequest(
            "devices_100", f"{base}/devices/?limit=100", key, _devices(many, 100), times(40), rows=100, goal_ms=20
        ),
        ApiRequest(
            "devices_1000", f"{base}/devices/?limit=1000", key, _devices(many, thousand), times(8), rows=thousand,
            goal_ms=120,
        ),
        ApiRequest("not_found", f"{base}/nothing/", key, _not_found, times(200), status=404),
        ApiRequest("healthz", "/healthz", "", _healthz, times(400)),
        ApiRequest("export", _export_path(base, many), key, _export(many), times(3), rows=_exported(many)),
    ]  # fmt: skip


def _latest_path(tenant: BenchTenant) -> str:
    return f"/t/{tenant.tenant.slug}/api/v1/devices/{tenant.dense}/latest/"


def _readings_path(base: str, tenant: BenchTenant) -> str:
    metric = METRICS[0][0]
    return (
        f"{base}/readings/?device={tenant.dense}&component={COMPONENT}&metric={metric}&limit={_READINGS}"
        f"&from={_text(_start_of_page(tenant))}"
    )


def _export_path(base: str, tenant: BenchTenant) -> str:
    start, stop = tenant.stop - timedelta(days=_EXPORT_DAYS), tenant.stop
    return f"{base}/readings/export/?device={tenant.dense}&from={_text(start)}&to={_text(stop)}&format=ndjson"


def _start_of_page(tenant: BenchTenant) -> datetime:
    return tenant.stop - timedelta(days=10)


def _text(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")


def _latest(tenant: BenchTenant) -> Callable[[bytes], None]:
    def verify(body: bytes) -> None:
        found = {row["metric"]: (row["time"], row["value"]) for row in json.loads(body)["results"]}
        assert found == {metric: (_text(tenant.stop), value) for metric, value in tenant.newest.items()}, found
        assert len(found) == len(METRICS)

    return verify


def _page_of_readings(tenant: BenchTenant) -> Callable[[bytes], None]:
    start = _start_of_page(tenant)
    stored = [(_text(time), value) for time, value in tenant.stored if time >= start][:_READINGS]

    def verify(body: bytes) -> None:
        document = json.loads(body)
        assert [(row["time"], row["value"]) for row in document["results"]] == stored, "the readings differ"
        assert len(stored) == _READINGS
        assert document["next"], "there are more"

    return verify


def _device(tenant: BenchTenant) -> Callable[[bytes], None]:
    def verify(body: bytes) -> None:
        document = json.loads(body)
        assert document["uuid"] == str(tenant.dense)
        assert document["status"] == "ONLINE"
        assert [(part["key"], part["freshness"]) for part in document["components"]] == [(COMPONENT, "FRESH")] or (
            document["components"][0]["last_reading_at"] == _text(tenant.stop)
        )

    return verify


def _devices(tenant: BenchTenant, count: int) -> Callable[[bytes], None]:
    def verify(body: bytes) -> None:
        document = json.loads(body)
        names = [row["name"] for row in document["results"]]
        assert names == [f"device {n:04}" for n in range(count)], "the devices differ"
        assert document["count"] == tenant.devices
        assert all(row["components"][0]["last_reading_at"] == _text(tenant.stop) for row in document["results"])

    return verify


def _not_found(body: bytes) -> None:
    assert json.loads(body)["code"] == "unknown_address"


def _healthz(body: bytes) -> None:
    assert json.loads(body) == {"status": "ok"}


def _exported(tenant: BenchTenant) -> int:
    start = tenant.stop - timedelta(days=_EXPORT_DAYS)
    return len(METRICS) * sum(start <= time < tenant.stop for time, _value in tenant.stored)


def _export(tenant: BenchTenant) -> Callable[[bytes], None]:
    count, last = _exported(tenant), tenant.stored[-2]

    def verify(body: bytes) -> None:
        lines = body.splitlines()
        assert "complete" in json.loads(lines[-1])
        assert len(lines) == count + 1, f"{len(lines) - 1} of {count} readings"
        rows = [json.loads(line) for line in lines[:-1:997]]
        stored = dict(tenant.stored)
        for row in rows:
            time = datetime.fromisoformat(row["time"])
            assert row["metric"] != METRICS[0][0] or stored[time] == row["value"], row
        assert any(json.loads(line)["time"] == _text(last[0]) for line in lines[-5:-1])

    return verify
