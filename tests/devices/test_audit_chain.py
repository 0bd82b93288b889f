"""The chain of a tenant's audit entries: what a change, a removal and an insertion afterwards look like."""

import io
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import ProgrammingError, connection, transaction
from django.utils import timezone
from django_tenants.utils import schema_context

from devices.models import AuditEntry
from devices.services import audit, audit_chain
from devices.services.audit_chain import BrokenChain, Head
from tests.audit_rows import forge
from tests.factories import make_tenant, remove_tenant
from tests.processes import run_at_once


@pytest.fixture(scope="module")
def made_tenant(django_db_setup: None, django_db_blocker: Any) -> Iterator[Any]:
    with django_db_blocker.unblock():
        tenant = make_tenant("audited")
        yield tenant
        remove_tenant(tenant)
        connection.close()


@pytest.fixture
def tenant(live_db: None, made_tenant: Any) -> Iterator[Any]:
    """A tenant with five chained entries, and its schema."""
    with schema_context(made_tenant.schema_name):
        forge("DELETE FROM devices_auditentry")
        for number in range(5):
            audit.record(None, "add", made_tenant, str(number), changes={"n": {"before": None, "after": number}})
        yield made_tenant


def numbers() -> list[int | None]:
    return list(AuditEntry.objects.order_by("position").values_list("position", flat=True))


def test_each_entry_holds_the_hash_of_the_one_before(tenant: Any) -> None:
    entries = list(AuditEntry.objects.order_by("id"))
    assert [entry.position for entry in entries] == [1, 2, 3, 4, 5]
    assert [entry.previous_hash for entry in entries] == [audit_chain.START, *(entry.hash for entry in entries[:-1])]
    assert audit_chain.verify() == Head(5, entries[-1].hash)
    assert audit_chain.unchained() == 0


@pytest.mark.parametrize(
    ("statement", "position"),
    [
        ("UPDATE devices_auditentry SET user_label = 'someone else' WHERE position = 3", 3),
        ("UPDATE devices_auditentry SET detail = 'x' WHERE position = 1", 1),
        ("UPDATE devices_auditentry SET at = at + interval '1 microsecond' WHERE position = 2", 2),
        ("UPDATE devices_auditentry SET address = '10.0.0.1' WHERE position = 5", 5),
        ('UPDATE devices_auditentry SET changes = \'{"n": {"before": null, "after": 7}}\' WHERE position = 4', 4),
        ("UPDATE devices_auditentry SET hash = repeat('a', 64) WHERE position = 2", 2),
        ("UPDATE devices_auditentry SET previous_hash = repeat('a', 64) WHERE position = 2", 2),
        ("UPDATE devices_auditentry SET user_id = 1, key_id = 2 WHERE position = 4", 4),
        ("DELETE FROM devices_auditentry WHERE position = 3", 3),
        ("DELETE FROM devices_auditentry WHERE position = 1", 1),
        ("UPDATE devices_auditentry SET position = position + 10 WHERE position = 4", 4),
    ],
)
def test_the_first_broken_entry_is_named(tenant: Any, statement: str, position: int) -> None:
    forge(statement)
    with pytest.raises(BrokenChain) as broken:
        audit_chain.verify()
    assert broken.value.position == position


def test_a_chain_without_its_newest_entries_is_found_by_a_noted_head(tenant: Any) -> None:
    noted = audit_chain.verify()
    audit.record(None, "add", tenant, "later")
    assert audit_chain.verify(noted).position == 6
    forge("DELETE FROM devices_auditentry WHERE position > 4")
    assert audit_chain.verify().position == 4
    with pytest.raises(BrokenChain, match="position 5: the noted entry is not in the chain"):
        audit_chain.verify(noted)


def test_a_chain_that_was_computed_again_is_found_by_a_noted_head(tenant: Any) -> None:
    noted = audit_chain.verify()
    forge("UPDATE devices_auditentry SET detail = 'forged', position = NULL, previous_hash = '', hash = ''")
    audit_chain.chain_all()
    assert audit_chain.verify().position == 5
    with pytest.raises(BrokenChain):
        audit_chain.verify(noted)


def test_entries_of_before_the_chain_are_chained_in_parts(tenant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_chain, "_AT_ONCE", 2)
    old = timezone.now() - timedelta(days=400)
    forge("UPDATE devices_auditentry SET position = NULL, previous_hash = '', hash = '', at = %s", old)
    assert audit_chain.unchained() == 5
    assert audit_chain.chain_every_tenant() >= 5
    assert numbers() == [1, 2, 3, 4, 5]
    assert audit_chain.verify().position == 5


def test_a_rolled_back_change_leaves_no_gap(tenant: Any) -> None:
    with transaction.atomic():
        audit.record(None, "add", tenant, "never")
        transaction.set_rollback(True)
    audit.record(None, "add", tenant, "after")
    assert numbers() == [1, 2, 3, 4, 5, 6]
    assert audit_chain.verify().position == 6


def test_a_long_transaction_holds_up_no_other(tenant: Any) -> None:
    """Two transactions at once: neither waits for the other, and both are chained."""
    schema, began, may_end = tenant.schema_name, threading.Event(), threading.Event()

    def long() -> None:
        with schema_context(schema), transaction.atomic():
            audit.record(None, "import", tenant, "long")
            began.set()
            assert may_end.wait(60)

    def short() -> None:
        with schema_context(schema):
            assert began.wait(60)
            audit.record(None, "add", tenant, "short")
            assert AuditEntry.objects.get(detail="short").position == 6
            may_end.set()

    run_at_once([long, short])
    assert AuditEntry.objects.get(detail="long").position == 7
    assert audit_chain.verify().position == 7


def test_many_at_once_make_one_chain(tenant: Any) -> None:
    def change(number: int) -> Callable[[], None]:
        def run() -> None:
            with schema_context(tenant.schema_name):
                for part in range(10):
                    with transaction.atomic():
                        audit.record(None, "add", tenant, f"{number}-{part}")

        return run

    run_at_once([change(number) for number in range(5)])
    assert numbers() == list(range(1, 56))
    assert audit_chain.verify().position == 55


def test_an_entry_of_another_tenants_transaction_is_in_its_own_chain(tenant: Any, tenant_a: Any) -> None:
    with schema_context(tenant_a.schema_name), transaction.atomic(), schema_context(tenant.schema_name):
        audit.record(None, "add", tenant, "from there")
    assert AuditEntry.objects.get(detail="from there").position == 6
    assert audit_chain.verify().position == 6


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE devices_auditentry SET detail = 'x'",
        "DELETE FROM devices_auditentry",
        "TRUNCATE devices_auditentry",
        "UPDATE devices_auditentry SET id = id + 1000",
    ],
)
def test_the_platforms_role_can_only_add(tenant: Any, statement: str) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"), connection.cursor() as cursor:
        cursor.execute(statement)
    assert audit_chain.verify().position == 5


def verify(*options: str) -> str:
    out = io.StringIO()
    call_command("verify_audit", *options, stdout=out)
    return out.getvalue()


def test_the_command_writes_heads_and_names_the_broken_entry(tenant: Any) -> None:
    head = str(audit_chain.verify())
    slug = ("--tenant", tenant.slug)
    assert verify(*slug) == f"{tenant.slug}: 5 entries, head {head}\n"
    assert f"{tenant.slug}: 5 entries" in verify()
    assert verify(*slug, "--expect", head)
    entry = AuditEntry.objects.get(position=3)
    forge("UPDATE devices_auditentry SET detail = 'x' WHERE position = 3")
    out = io.StringIO()
    with pytest.raises(CommandError, match="not as it was written"):
        call_command("verify_audit", *slug, stdout=out)
    assert (
        f"{tenant.slug}: position 3 (entry {entry.pk}): its content is not the one that was hashed." in out.getvalue()
    )


def test_the_command_warns_of_entries_that_nothing_chains(tenant: Any) -> None:
    forge(
        "INSERT INTO devices_auditentry (at, user_label, action, object_type, object_id, object_label, detail)"
        " VALUES (now() - interval '1 hour', 'x', 'add', '', '', '', '')"
    )
    assert "1 entries are not chained" in verify("--tenant", tenant.slug)


@pytest.mark.parametrize("options", [("--tenant", "absent"), ("--expect", "1:ab"), ("--expect", f"1:{'a' * 64}")])
def test_wrong_options(db: None, options: tuple[str, ...]) -> None:
    with pytest.raises(CommandError):
        verify(*options)
