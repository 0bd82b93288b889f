"""Failures of single tenants: recorded in Redis, named by slug, gone when they are cleared or expire."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from django_redis import get_redis_connection
from prometheus_client import CollectorRegistry, generate_latest

from tenants.infrastructure.tenant_failures import clear_failures, current_failures, record_failures
from tenants.services import failing_tenants


@pytest.fixture(autouse=True)
def _no_failures(live_db: None) -> Iterator[None]:
    keys = "gwanje:tenant_failures", "gwanje:tenant_failures:details"
    get_redis_connection("default").delete(*keys)
    yield
    get_redis_connection("default").delete(*keys)


def test_a_failure_is_named_until_it_is_cleared(tenant_a: Any, tenant_b: Any) -> None:
    record_failures(
        "ingest", {tenant_a.schema_name: ValueError("no table\nLINE 1"), tenant_b.schema_name: "locked"}, 60
    )
    record_failures("rollups", {tenant_a.schema_name: "no column"}, 60)
    shown = [(one.slug, one.failure.work, one.failure.detail) for one in failing_tenants.failing_tenants()]
    assert shown == [
        (tenant_a.slug, "ingest", "no table"),
        (tenant_a.slug, "rollups", "no column"),
        (tenant_b.slug, "ingest", "locked"),
    ]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(failing_tenants)
    assert f'gwanje_tenant_failing{{tenant="{tenant_b.slug}",work="ingest"}} 1.0' in generate_latest(registry).decode()
    clear_failures("ingest", [tenant_a.schema_name, tenant_b.schema_name])
    assert [one.failure.work for one in failing_tenants.failing_tenants()] == ["rollups"]


def test_a_failure_that_lasts_keeps_its_beginning_and_one_that_is_not_recorded_expires() -> None:
    record_failures("ingest", {"t_one": "first"}, 60)
    (first,) = current_failures()
    time.sleep(0.05)
    record_failures("ingest", {"t_one": "second"}, 0.1)
    (second,) = current_failures()
    assert (second.since, second.detail) == (first.since, "second")
    time.sleep(0.15)
    assert current_failures() == []
    record_failures("ingest", {"t_one": "third"}, 60)
    (third,) = current_failures()
    assert third.since > first.since


def test_a_long_error_is_cut() -> None:
    record_failures("ingest", {"t_one": "x" * 10_000}, 60)
    assert len(current_failures()[0].detail) == 300
