"""The project's files that run code for one request for readings."""

import sys
from types import FrameType
from typing import Any

from django.test import override_settings

from tests.factories import add_readings, add_series
from tests.processes import ROOT

from .client import T0, Api

APPS = tuple(f"{ROOT / app}/" for app in ("tenants", "devices", "telemetry", "alarms"))
# Five of them are middlewares, four the access of keys with scopes and selectors.
MOST_FILES = 27


@override_settings(API_REQUESTS_PER_MINUTE=1_000_000)
def test_a_request_for_readings_runs_code_of_few_files(api: Api, greenhouse: Any, tenant_a: Any) -> None:
    add_readings(tenant_a, add_series(tenant_a, greenhouse, "dht22", "temperature", "°C"), (T0, 21.5))
    seen: set[str] = set()

    def trace(frame: FrameType, _event: str, _arg: Any) -> None:
        seen.add(frame.f_code.co_filename)

    def get() -> Any:
        named = {"device": str(greenhouse.uuid), "component": "dht22", "metric": "temperature"}
        return api.get("readings/", **named, **{"from": "2026-11-22T09:00:00Z", "to": "2026-11-22T10:00:00Z"})

    get()  # what is imported at the first request is not the request's path
    sys.settrace(trace)
    try:
        answer = get()
    finally:
        sys.settrace(None)
    assert [row["value"] for row in answer.json()["results"]] == [21.5]
    files = sorted(name.removeprefix(f"{ROOT}/") for name in seen if name.startswith(APPS))
    assert "telemetry/services/queries/readings.py" in files
    assert len(files) <= MOST_FILES, "\n".join(files)
