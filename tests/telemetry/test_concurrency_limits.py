"""Exports and expensive queries are counted: those of one tenant leave room for others."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection
from django_redis import get_redis_connection
from django_tenants.utils import schema_context

from devices.services import concurrency_limits
from tenants.infrastructure import concurrency
from tenants.infrastructure.concurrency import Lease, LimitReached, Operation
from tests.api.client import Api
from tests.factories import issue_key


@pytest.fixture
def leases() -> Iterator[list[Lease]]:
    for name in get_redis_connection("default").scan_iter("gwanje:concurrency:*"):
        get_redis_connection("default").delete(name)
    # Of responses that other tests have not read to their end; they would count for 20 seconds.
    concurrency._local._ends.clear()
    kept: list[Lease] = []
    yield kept
    for lease in kept:
        lease.release()


@pytest.fixture
def hold(leases: list[Lease]) -> Callable[..., Lease]:
    """`hold(tenant, operation, count)`: leases of operations in progress of other keys."""

    def begin(tenant: Any, operation: Operation, count: int = 1) -> Lease:
        with schema_context(tenant.schema_name):
            leases.extend(concurrency_limits.begin(operation, key_id=10_000 + number) for number in range(count))
        return leases[-1]

    return begin


def refusal(answer: Any) -> tuple[int, str]:
    assert int(answer["Retry-After"]) > 0
    return answer.status_code, answer.json()["code"]


REFUSED = (429, "too_many_at_once")


@pytest.mark.parametrize("path", ["export/", "devices/export/", "readings/export/?format=csv&device={device}"])
def test_exports_are_counted_and_end(
    db: None, hold: Callable[..., Lease], register: Any, tenant_a: Any, tenant_b: Any, path: str
) -> None:
    apis = {tenant.slug: Api(tenant.slug, key=issue_key(tenant, "admin")) for tenant in (tenant_a, tenant_b)}
    paths = {tenant.slug: path.format(device=register(tenant=tenant).uuid) for tenant in (tenant_a, tenant_b)}
    hold(tenant_a, Operation.EXPORT, 3)
    for _ in range(3):  # each ends, and gives its place to the next
        answer = apis["alpha"].get(paths["alpha"])
        assert answer.status_code == 200
        assert b"".join(answer)
    last = hold(tenant_a, Operation.EXPORT)
    assert refusal(apis["alpha"].get(paths["alpha"])) == REFUSED
    assert apis["beta-farm"].get(paths["beta-farm"]).status_code == 200
    last.release()
    assert apis["alpha"].get(paths["alpha"]).status_code == 200


@pytest.mark.parametrize("path", ["readings/aggregates/", "readings/chart/"])
def test_expensive_queries_of_one_tenant_leave_room(
    db: None, hold: Callable[..., Lease], register: Any, tenant_a: Any, tenant_b: Any, settings: Any, path: str
) -> None:
    settings.QUERY_WAIT_SECONDS = 0.0

    def get(tenant: Any) -> Any:
        query = {"device": register(tenant=tenant).uuid, "from": "2026-11-22T00:00:00Z"}
        query |= {"interval": "1h"} if "aggregates" in path else {}
        return Api(tenant.slug, key=issue_key(tenant, "read")).get(path, **query)

    hold(tenant_a, Operation.QUERY, 2)
    assert get(tenant_a).status_code == 200
    hold(tenant_a, Operation.QUERY)
    assert refusal(get(tenant_a)) == REFUSED
    assert get(tenant_b).status_code == 200


def test_a_query_waits_for_its_turn_without_a_connection(
    live_db: None, hold: Callable[..., Lease], tenant_a: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from telemetry.services.queries import query_budget

    last = hold(tenant_a, Operation.QUERY, 3)
    pauses: list[bool] = []

    def pause(_seconds: float) -> None:
        pauses.append(connection.connection is None)
        if len(pauses) == 3:
            last.release()

    monkeypatch.setattr(time, "sleep", pause)
    with schema_context(tenant_a.schema_name):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        with query_budget.time_limited_queries(), connection.cursor() as cursor:
            cursor.execute("SELECT current_schema()")
            assert cursor.fetchone() == (tenant_a.schema_name,)
    assert pauses == [True] * 3


def test_a_query_without_a_turn_is_refused_in_time(
    live_db: None, hold: Callable[..., Lease], tenant_a: Any, settings: Any
) -> None:
    from telemetry.services.queries import query_budget

    settings.QUERY_WAIT_SECONDS = 0.1
    hold(tenant_a, Operation.QUERY, 3)
    with schema_context(tenant_a.schema_name), pytest.raises(LimitReached), query_budget.time_limited_queries():
        raise AssertionError("it has no turn")
