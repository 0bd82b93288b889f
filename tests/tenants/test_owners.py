"""The migration that makes the first administrator of each tenant its owner."""

from importlib import import_module
from typing import Any

from django.db import connection

from tenants.models import Membership
from tests.factories import make_user

_FIRST_ADMINISTRATORS = import_module("tenants.migrations.0019_owners")._FIRST_ADMINISTRATORS


def test_the_first_active_administrator_of_each_tenant_becomes_its_owner(
    db: None, tenant_a: Any, tenant_b: Any
) -> None:
    Membership.objects.all().delete()
    make_user("viewer", tenant_a, "viewer")
    make_user("left", tenant_a, "admin", is_active=False)
    both = make_user("first", tenant_a, "admin")
    make_user("second", tenant_a, "admin")
    make_user("only-and-left", tenant_b, "admin", is_active=False)
    Membership.objects.create(user=both, tenant=tenant_b, role="operator")
    with connection.cursor() as cursor:
        cursor.execute(_FIRST_ADMINISTRATORS)
    roles = Membership.objects.values_list("tenant__slug", "user__username", "role")
    assert set(roles) == {
        ("alpha", "viewer", "viewer"), ("alpha", "left", "admin"), ("alpha", "first", "owner"),
        ("alpha", "second", "admin"), ("beta-farm", "only-and-left", "owner"), ("beta-farm", "first", "operator"),
    }  # fmt: skip
