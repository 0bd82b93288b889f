"""Fixtures for moving from the old server: a tenant of the test's own, and the command."""

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django_tenants.utils import schema_context

from tests.factories import make_tenant, remove_tenant

from .legacy_dump import Dump

LAW = ("created", "unchanged", "errors")


@pytest.fixture(name="tenant")
def tenant_fixture(live_db: None) -> Iterator[Any]:
    tenant = new_tenant()
    yield tenant
    remove_tenant(tenant)


def new_tenant() -> Any:
    """Create a tenant with the demonstration hardware."""
    return make_tenant(f"old-{uuid4().hex[:8]}")


Import = Callable[..., dict[str, Any]]


@pytest.fixture(name="run")
def run_fixture(tenant: Any, capsys: pytest.CaptureFixture[str]) -> Import:
    """`run(dump, "--dry-run")`: the report by table, and under `failure` what the command ended with."""

    def call(dump: Dump, *options: str, to: Any = None, with_secrets: bool = True) -> dict[str, Any]:
        capsys.readouterr()
        arguments = [str(dump.write()), "--tenant", (to or tenant).slug, "--json"]
        arguments += ["--secrets", str(dump.secrets)] if with_secrets else []
        failure = ""
        try:
            call_command("import_legacy", *arguments, *options)
        except CommandError as error:
            failure = str(error)
        out, err = capsys.readouterr()
        for device in dump.devices:
            assert device.secret not in out + err + failure
            assert device.password not in out + err + failure
        report = {table["table"]: table for table in json.loads(out)} if out else {}
        if not failure:
            for table in report.values():
                assert table["read"] == sum(table[name] for name in LAW) + sum(table["skipped"].values()), table
        return {"failure": failure, **report}

    return call


def counts(report: dict[str, Any], name: str = "created") -> dict[str, int]:
    return {table: found[name] for table, found in report.items() if table not in ("failure", "secrets")}


def everything(tenant: Any) -> dict[str, Any]:
    """All rows of the tenant, in public and in its schema; not what counts how often it was looked at."""
    rows: dict[str, Any] = {}
    with schema_context("public"), connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE' AND"
            " (table_schema = %s OR table_schema = 'public' AND table_name LIKE 'tenants\\_%%')",
            [tenant.schema_name],
        )
        for schema, table in cursor.fetchall():
            cursor.execute(f'SELECT t::text FROM "{schema}"."{table}" AS t ORDER BY 1')  # noqa: S608
            rows[f"{schema}.{table}"] = cursor.fetchall()
    return rows


def totals(tenant: Any) -> tuple[int, ...]:
    from telemetry.models import IngestTotals

    with schema_context(tenant.schema_name):
        rows = IngestTotals.objects.all()
        return tuple(
            sum(getattr(row, name) for row in rows)
            for name in ("received", "stored", "duplicates", "quarantined", "rate_limited")
        )


def messages(tenant: Any) -> list[Any]:
    from telemetry.models import Message

    with schema_context(tenant.schema_name):
        return list(Message.objects.order_by("time", "topic").select_related("device"))


def broker_names() -> set[str]:
    from devices.services.broker import accounts

    return set(accounts.accounts())
