"""Creation, suspension and removal of tenants."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import connection, transaction
from django.utils.translation import gettext as _
from django_tenants.utils import schema_context

from tenants.infrastructure import hooks
from tenants.infrastructure.database import conninfo
from tenants.infrastructure.error_codes import ErrorCode
from tenants.models import Domain, Membership, Tenant, User, validate_slug

from . import tenant_lookup
from .limits import publish_changes

logger = logging.getLogger(__name__)


def create_tenant(*, slug: str, name: str, domain: str = "", owner: User | None = None) -> Tenant:
    """Create a tenant with its schema and first rows, or resume an incomplete creation.

    `domain` is an optional host name; `owner` becomes the tenant's owner. Takes a fraction of a second.
    Raises ValidationError for an invalid slug or that of a complete tenant; any other error sets the tenant
    `failed`, with the error in `state_detail`, and the same call resumes.
    """
    validate_slug(slug)
    with _creation_lock(slug):
        tenant = _begin(slug, name)
        try:
            _build(tenant)
            _finish(tenant, domain, owner)
        except Exception as error:
            Tenant.objects.filter(pk=tenant.pk).update(state=Tenant.State.FAILED, state_detail=f"{error}"[:2000])
            logger.exception("Creating the tenant %s failed; create it again to resume", slug)
            raise
    return tenant


def discard_incomplete_tenant(tenant: Tenant) -> None:
    """Remove a tenant whose creation did not finish, and its schema. Raises ValidationError for a complete one."""
    with _creation_lock(tenant.slug), transaction.atomic():
        locked = Tenant.objects.select_for_update().get(pk=tenant.pk)
        if locked.state not in (Tenant.State.CREATING, Tenant.State.FAILED):
            raise ValidationError(
                _("Tenant %(slug)s is %(state)s. Only a tenant whose creation is incomplete can be discarded.")
                % {"slug": tenant.slug, "state": locked.get_state_display()}
            )
        with connection.cursor() as cursor:
            cursor.execute(f"DROP SCHEMA IF EXISTS {connection.ops.quote_name(locked.schema_name)} CASCADE")
        locked.delete()


def suspend_tenant(tenant: Tenant, *, reason: str) -> bool:
    """Suspend an active tenant: its addresses close, and its messages are quarantined. Return False if not active."""
    return _change_state(tenant, Tenant.State.ACTIVE, Tenant.State.SUSPENDED, reason)


def resume_tenant(tenant: Tenant) -> bool:
    """Resume a suspended tenant. Return False if it was not suspended."""
    return _change_state(tenant, Tenant.State.SUSPENDED, Tenant.State.ACTIVE, "")


def rename_tenant(tenant: Tenant, name: str) -> None:
    """Give the tenant another name for people; slug and schema stay."""
    Tenant.objects.filter(pk=tenant.pk).update(name=name)
    transaction.on_commit(lambda: tenant_lookup.forget(tenant.pk))


def _change_state(tenant: Tenant, old: Tenant.State, new: Tenant.State, detail: str) -> bool:
    """Change the state from `old` and publish the change to the listeners. Return False for another state."""
    with transaction.atomic():
        changed = Tenant.objects.filter(pk=tenant.pk, state=old).update(state=new, state_detail=detail)
        if changed:
            publish_changes([tenant.schema_name])
            transaction.on_commit(lambda: tenant_lookup.forget(tenant.pk))
            for receive in hooks.tenant_state_changed:
                receive(tenant.schema_name)
    return bool(changed)


@contextmanager
def _creation_lock(slug: str) -> Iterator[None]:
    """Lock the creation of the slug over all processes; PostgreSQL unlocks it when this one dies.

    On a connection of its own: Django's may be returned to the pool meanwhile, where the lock would last.
    """
    with psycopg.connect(conninfo(), autocommit=True) as own:
        row = own.execute("SELECT pg_try_advisory_lock(hashtext(%s))", [f"create_tenant:{slug}"]).fetchone()
        if row is None or not row[0]:
            text = _("The tenant %(slug)r is being created right now.") % {"slug": slug}
            raise ValidationError({"slug": ValidationError(text, ErrorCode.RACED)})
        yield


def _begin(slug: str, name: str) -> Tenant:
    """Return the tenant's row in state `creating`, new or of an earlier attempt."""
    with transaction.atomic():
        tenant, created = Tenant.objects.select_for_update().get_or_create(
            slug=slug, defaults={"name": name, "schema_name": schema_name_of(slug)}
        )
        if not created and tenant.state not in (Tenant.State.FAILED, Tenant.State.CREATING):
            text = _("A tenant with the slug %(slug)r already exists.") % {"slug": slug}
            raise ValidationError({"slug": ValidationError(text, ErrorCode.EXISTS)})
        tenant.state, tenant.state_detail = Tenant.State.CREATING, "making the schema"
        tenant.save(update_fields=["state", "state_detail"])
        # In the transaction of the row, so that migrations of all tenants find a schema for each row.
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {connection.ops.quote_name(tenant.schema_name)}")
    return tenant


def schema_name_of(slug: str) -> str:
    """Return the schema's name of a slug; the prefix distinguishes it from public and pg_*."""
    return "t_" + slug.replace("-", "_")


def _build(tenant: Tenant) -> None:
    """Create tables and first rows. Each step can be repeated."""
    call_command("migrate_schemas", tenant=True, schema_name=tenant.schema_name, interactive=False, verbosity=0)
    with schema_context(tenant.schema_name), transaction.atomic():
        for install in hooks.new_tenant:
            install()


def _finish(tenant: Tenant, domain: str, owner: User | None) -> None:
    with transaction.atomic():
        if domain:
            Domain.objects.get_or_create(domain=domain.lower(), defaults={"tenant": tenant, "is_primary": True})
        if owner is not None:
            Membership.objects.update_or_create(user=owner, tenant=tenant, defaults={"role": Membership.Role.OWNER})
        tenant.state, tenant.state_detail = Tenant.State.ACTIVE, ""
        tenant.save(update_fields=["state", "state_detail"])
