"""Creating tenants: once, completely, or recorded as incomplete and then completed or removed."""

import threading
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django_tenants.utils import schema_context, schema_exists

from tenants.infrastructure import hooks
from tenants.infrastructure.database import leave_schema
from tenants.models import Membership, Tenant, User
from tenants.services import lifecycle
from tenants.services.lifecycle import create_tenant, discard_incomplete_tenant, resume_tenant, suspend_tenant


@pytest.fixture
def slug(live_db: None) -> Any:
    name = "made-for-a-test"
    yield name
    leave_schema()
    Tenant.objects.filter(slug=name).update(state=Tenant.State.FAILED)
    for tenant in Tenant.objects.filter(slug=name):
        discard_incomplete_tenant(tenant)


def test_a_tenant_has_its_schema_its_units_and_its_owner(slug: str) -> None:
    from devices.models import Unit

    owner = User.objects.create_user(username="owner-of-made")
    tenant = create_tenant(slug=slug, name="Made", domain="Made.Example.org", owner=owner)
    assert (tenant.state, tenant.state_detail, tenant.schema_name) == ("active", "", "t_made_for_a_test")
    assert tenant.domains.get().domain == "made.example.org"
    assert Membership.objects.get(tenant=tenant).role == Membership.Role.OWNER
    with schema_context(tenant.schema_name):
        assert Unit.objects.filter(symbol="°C", ucum="Cel").exists()
    with pytest.raises(ValidationError, match="already"):
        create_tenant(slug=slug, name="Again")
    with pytest.raises(ValidationError, match="Only a tenant whose creation is incomplete"):
        discard_incomplete_tenant(tenant)
    owner.delete()


def test_a_creation_that_fails_is_recorded_and_resumed(slug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(hooks.new_tenant, "entries", [(0, fail)])
        with pytest.raises(RuntimeError, match="the disk is full"):
            create_tenant(slug=slug, name="Made")
    tenant = Tenant.objects.get(slug=slug)
    assert (tenant.state, tenant.state_detail) == ("failed", "the disk is full")
    assert create_tenant(slug=slug, name="Made").state == "active"
    assert Tenant.objects.get(slug=slug).state_detail == ""


def fail() -> None:
    raise RuntimeError("the disk is full")


def test_an_incomplete_tenant_is_discarded_with_its_schema(slug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks.new_tenant, "entries", [(0, fail)])
    with pytest.raises(RuntimeError):
        create_tenant(slug=slug, name="Made")
    tenant = Tenant.objects.get(slug=slug)
    assert schema_exists(tenant.schema_name)
    discard_incomplete_tenant(tenant)
    assert not schema_exists(tenant.schema_name)
    assert not Tenant.objects.filter(slug=slug).exists()


def test_two_creators_at_once_make_one_tenant(slug: str) -> None:
    results: list[str] = []

    def create() -> None:
        try:
            results.append(create_tenant(slug=slug, name="Made").state)
        except ValidationError as error:
            results.append("; ".join(error.messages))
        finally:
            connection.close()

    threads = [threading.Thread(target=create) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Tenant.objects.get(slug=slug).state == "active"
    assert results.count("active") == 1
    assert "being created right now" in "".join(results) or "already" in "".join(results)


def test_no_lock_outlasts_a_creation_whose_connection_went_back_to_the_pool(
    slug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pooled: list[Any] = []

    def take_another_connection() -> None:
        # A pool keeps the first one open for other requests.
        pooled.append(connection.connection)
        connection.connection = None
        leave_schema()

    build = lifecycle._build

    def build_on_another_connection(tenant: Any) -> None:
        take_another_connection()
        build(tenant)

    monkeypatch.setattr(lifecycle, "_build", build_on_another_connection)
    try:
        assert create_tenant(slug=slug, name="Made").state == "active"
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
                " AND objid = (hashtext(%s)::int8 & 4294967295)::oid",
                [f"create_tenant:{slug}"],
            )
            assert cursor.fetchone() == (0,)
        with pytest.raises(ValidationError, match="already"):
            create_tenant(slug=slug, name="Again")
    finally:
        for one in pooled:
            one.close()


@pytest.mark.parametrize("bad", ["", "A", "1a", "a_b", "a-", "ä", "a" * 49, 'x", public; --', "a/b"])
def test_slugs_that_are_refused(live_db: None, bad: str) -> None:
    with pytest.raises(ValidationError):
        create_tenant(slug=bad, name="Bad")
    assert not Tenant.objects.filter(slug=bad).exists()


def test_suspending_and_resuming(slug: str) -> None:
    tenant = create_tenant(slug=slug, name="Made")
    assert suspend_tenant(tenant, reason="not paid")
    assert not suspend_tenant(tenant, reason="again")
    assert Tenant.objects.get(slug=slug).state_detail == "not paid"
    assert resume_tenant(tenant)
    assert not resume_tenant(tenant)
