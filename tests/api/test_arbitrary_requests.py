"""Whatever is sent, the answer is one of the API's own, and never a failure."""

from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.factories import make_device

from .client import Api, problems
from .test_isolation import ROWS

pytestmark = pytest.mark.slow

_ODD_TEXT = st.sampled_from(
    ["", " ", "\x00", "null", "0", "-1", "1e400", "9" * 40, "NaN", "é", "\ud7ff\U0010ffff", "%", "a/b", "'; --", "=()"]
)
_TEXT = st.one_of(_ODD_TEXT, st.text(max_size=20), st.datetimes().map(str), st.uuids().map(str))
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.floats(allow_nan=False, width=32), _TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_TEXT, inner, max_size=3)),
    max_leaves=6,
)
_MEMBERS = {
    "devices/": ("name", "uuid", "cpu_serial", "hardware_model", "components"),
    "components/": ("device", "key", "name", "component_type", "attached", "expected_interval", "pins"),
    "component-types/": (
        *("key", "name", "description", "expected_interval", "unmapped", "invalid_values"),
        *("list_path", "list_form", "time_path", "time_format", "time_zone"),
    ),
    "metrics/": (
        "component_type",
        "key",
        "path",
        "unit_path",
        "value_type",
        "unit",
        "sent_unit",
        "minimum",
        "maximum",
        "true_value",
        "number_format",
        "sentinels",
        "sentinel_treatment",
        "numbers_as_text",
    ),
    "units/": ("symbol", "name", "quantity", "ucum"),
    "hardware-models/": ("name", "version", "allowed_component_types", "timeout_seconds"),
    "api-keys/": ("name", "scope", "expires_at"),
    "maintenance-windows/": ("device", "starts_at", "ends_at", "description"),
}
_QUERIES = sorted(
    {
        row[1].partition("?")[0].removeprefix("api/v1/")
        for row in ROWS
        if row[0] == "GET" and "{" not in row[1].partition("?")[0]
    }
    - {"", "api/schema/", "api/docs/"}
)
_PARAMETERS = (
    "unit", "place", "tag", "group_by", "percentile", "max_gap_seconds",
    "limit", "offset", "cursor", "from", "to", "device", "component", "metric", "reason", "status", "active", "search",
    "hardware_model", "component_type", "attached", "key", "quantity", "symbol", "name", "version",
    "interval", "timezone", "aggregate", "fill", "max_points", "format",
)  # fmt: skip
_EXAMPLES = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def _check(answer: Any) -> None:
    assert answer.status_code < 500, answer.content
    if answer.status_code >= 400:
        assert all(problems(answer).values())


@pytest.mark.parametrize("path", sorted(_MEMBERS))
def test_any_body(admin_api: Api, path: str) -> None:
    valid = {row[1]: row[4] or {} for row in ROWS if row[0] == "POST"}[f"api/v1/{path}"]
    bodies = st.one_of(_JSON, st.dictionaries(st.sampled_from(_MEMBERS[path]), _JSON).map(lambda odd: {**valid, **odd}))

    @_EXAMPLES
    @given(bodies)
    def send(body: Any) -> None:
        with transaction.atomic():
            _check(admin_api.post(path, body))
            transaction.set_rollback(True)

    send()


@pytest.mark.parametrize("path", _QUERIES)
def test_any_question(admin_api: Api, tenant_a: Any, path: str) -> None:
    device = make_device(tenant_a, dht22="dht22")
    asked = {"device": str(device.uuid), "component": "dht22", "metric": "temperature"} if "readings/" in path else {}
    asked |= {"from": "2026-11-22T00:00:00Z", "interval": "1h"} if path == "readings/aggregates/" else {}
    asked |= {"from": "2026-11-22T00:00:00Z"} if path in ("readings/chart/", "readings/group-aggregates/") else {}

    @_EXAMPLES
    @given(st.dictionaries(st.sampled_from(_PARAMETERS), _TEXT, max_size=3))
    def ask(query: dict[str, str]) -> None:
        _check(admin_api.get(path, **(asked | query)))

    ask()


def test_any_change_of_a_device(admin_api: Api, tenant_a: Any) -> None:
    device = make_device(tenant_a)
    members = st.sampled_from(("name", "cpu_serial", "hardware_model", "active", "timeout_seconds"))

    @_EXAMPLES
    @given(st.dictionaries(members, _JSON))
    def change(body: dict[str, Any]) -> None:
        with transaction.atomic():
            _check(admin_api.patch(f"devices/{device.uuid}/", body))
            transaction.set_rollback(True)

    change()
