"""Imports as people ask for them: looked through, begun, done step by step, and their credentials handed over.

A step is ended anywhere, or runs twice at a time, without harm: rows are registered in the transaction that moves the
import's position behind them. Everything is in the current schema.
"""

import logging
import time
from collections.abc import Sequence
from datetime import timedelta

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext as _
from django_tenants.utils import schema_context

from devices.models import Device, DeviceImport
from devices.services import audit
from devices.services.broker import accounts
from devices.services.provisioning.registration import IssuedCredentials
from devices.services.vault.secret_store import SecretMissing, SecretsUnavailable, provisioner
from tenants.infrastructure import jobs
from tenants.infrastructure.schema_context import current_schema
from tenants.infrastructure.spreadsheets import TableRow
from tenants.models import Tenant

from . import import_application
from .import_application import Outcome, Outcomes

logger = logging.getLogger(__name__)

State = DeviceImport.State
STEP = "devices.services.provisioning.import_jobs.step"
UNDER_WAY = (State.WAITING, State.RUNNING)
MOST_AT_ONCE = 3
MOST_PROBLEMS = 200
HANDED_AT_ONCE = 1000
_BATCH = 50
_SECONDS = 60.0
_CLAIM = timedelta(seconds=120)
_KEPT_UNBEGUN = timedelta(days=1)


class Superseded(Exception):
    """Another process goes on with the import: nothing of this batch was done."""


class HasErrors(Exception):
    """Rows have errors, and nobody asked for the others alone: nothing was done."""

    def __init__(self, found: Outcomes) -> None:
        super().__init__(f"{len(found.refused())} rows have errors")
        self.found = found


def keep(rows: Sequence[TableRow], filename: str, *, acting_user: audit.Actor) -> DeviceImport:
    """Keep a table that a person looks at before it is begun. Those that nobody began are gone after a day."""
    DeviceImport.objects.filter(state=State.CHECKED, created_at__lt=timezone.now() - _KEPT_UNBEGUN).delete()
    return _create(rows, filename, State.CHECKED, skip_errors=False, acting_user=acting_user)


def import_rows(
    rows: Sequence[TableRow], filename: str = "", *, skip_errors: bool = False, acting_user: audit.Actor = None
) -> tuple[DeviceImport, Outcomes | None]:
    """Register the devices of the rows: a few at once, with what became of each; many by a worker (None).

    Raises HasErrors unless `skip_errors`, ValidationError when too many imports are under way, and SecretsUnavailable;
    nothing is registered then.
    """
    with accounts.together(), transaction.atomic():
        kept = _create(rows, filename, State.CHECKED, skip_errors=skip_errors, acting_user=acting_user)
        return kept, begin(kept, skip_errors=skip_errors, acting_user=acting_user, hand_over=True)


def begin(
    kept: DeviceImport, *, skip_errors: bool, acting_user: audit.Actor = None, hand_over: bool = False
) -> Outcomes | None:
    """Begin an import that was kept; see `import_rows`. With `hand_over` the outcome's credentials count as given."""
    rows = rows_of(kept)
    found = import_application.look_through(rows)
    if found.refused() and not skip_errors:
        raise HasErrors(found)
    if DeviceImport.objects.filter(state__in=UNDER_WAY).count() >= MOST_AT_ONCE:
        raise ValidationError(
            _("%(most)d imports are under way already: wait for one to end.") % {"most": MOST_AT_ONCE}
        )
    at_once = len(rows) <= settings.IMPORT_AT_ONCE
    with accounts.together(), transaction.atomic():
        changed = {"skip_errors": skip_errors, "state": State.RUNNING if at_once else State.WAITING}
        if not DeviceImport.objects.filter(pk=kept.pk, state=State.CHECKED).update(**changed):
            raise ValidationError(_("The import was begun already."))
        audit.record(acting_user, "import", kept, f"{len(rows)} rows")
        if not at_once:
            transaction.on_commit(lambda: jobs.enqueue(STEP, kept.pk))
            done = None
        else:
            done = _carry_out(kept, rows, acting_user)
            if done.refused() and not skip_errors:
                raise HasErrors(done)  # somebody was quicker; all of it is taken back
            if hand_over:
                DeviceImport.objects.filter(pk=kept.pk).update(handed_over=len(done.issued))
            _finish(kept.pk)
    kept.refresh_from_db()
    return done


def step(import_id: int, *, queue: bool = True) -> str:
    """Go on with an import for a while; what it says afterwards. What is left is queued, unless `queue` is False."""
    now = timezone.now()
    free = DeviceImport.objects.filter(pk=import_id, state__in=UNDER_WAY, claimed_until__lte=now)
    if not free.update(state=State.RUNNING, claimed_until=now + _CLAIM):
        return "nothing to do"
    kept = DeviceImport.objects.get(pk=import_id)
    waits = False
    try:
        has_more = _go_on(kept, rows_of(kept))
    except Superseded:
        return "goes on elsewhere"
    except SecretsUnavailable as error:
        logger.warning("Import %d waits, since Vault is away: %s", import_id, error)
        DeviceImport.objects.filter(pk=import_id).update(note="Vault")
        has_more = waits = True
    finally:
        DeviceImport.objects.filter(pk=import_id, state=State.RUNNING).update(claimed_until=timezone.now())
    if has_more and queue and not waits:
        jobs.enqueue(STEP, import_id)
    kept.refresh_from_db()
    return f"{kept.position} of {kept.total}"


def resume_all() -> int:
    """In every tenant, queue a step of each import that nobody is at; how many."""
    with schema_context("public"):
        schemas = list(Tenant.objects.filter(state=Tenant.State.ACTIVE).values_list("schema_name", flat=True))
    queued = 0
    for schema in schemas:
        with schema_context(schema):
            idle = DeviceImport.objects.filter(state__in=UNDER_WAY, claimed_until__lt=timezone.now())
            for pk in list(idle.values_list("pk", flat=True)):
                jobs.enqueue(STEP, pk)
                queued += 1
    return queued


def hand_over(kept: DeviceImport, *, acting_user: audit.Actor = None) -> list[tuple[Device, IssuedCredentials]]:
    """The credentials of the next devices that the import registered, up to `HANDED_AT_ONCE`: to be given once.

    Read from Vault, where they alone are. Devices that were removed meanwhile are left out. Raises SecretsUnavailable;
    nothing counts as given then.
    """
    schema = current_schema()
    with transaction.atomic():
        locked = DeviceImport.objects.select_for_update().get(pk=kept.pk)
        uuids = locked.registered[locked.handed_over : locked.handed_over + HANDED_AT_ONCE]
        devices = (
            Device.objects.select_related("hardware_model")
            .prefetch_related("components")
            .in_bulk(uuids, field_name="uuid")
        )
        given = []
        for device in (devices[uuid] for uuid in uuids if uuid in devices):
            try:
                secret = provisioner().read(schema, device.uuid)
            except SecretMissing:
                continue
            issued = IssuedCredentials(device.uuid, secret.secret, secret.version, secret.mqtt_password)
            given.append((device, issued))
        if uuids:
            locked.handed_over += len(uuids)
            locked.save(update_fields=["handed_over"])
            audit.record(acting_user, "hand over credentials", locked, f"{len(given)} devices")
    kept.refresh_from_db()
    return given


def rows_of(kept: DeviceImport) -> list[TableRow]:
    """The table's rows."""
    return [TableRow(number, cells) for number, cells in kept.rows]


def _create(
    rows: Sequence[TableRow], filename: str, state: State, *, skip_errors: bool, acting_user: audit.Actor
) -> DeviceImport:
    who = audit.named(acting_user)
    return DeviceImport.objects.create(
        filename=filename.replace("\0", "")[-200:],
        state=state,
        skip_errors=skip_errors,
        rows=[[row.number, row.cells] for row in rows],
        total=len(rows),
        created_by_id=who.user_id,
        created_by_label=who.user_label,
    )


def _go_on(kept: DeviceImport, rows: Sequence[TableRow]) -> bool:
    """Whether there is more to do. Raises Superseded, SecretsUnavailable."""
    until = time.monotonic() + _SECONDS
    actor = audit.Named(kept.created_by_id, kept.created_by_label)
    with accounts.together():
        while kept.position < kept.total:
            if time.monotonic() > until:
                return True
            with transaction.atomic():
                _carry_out(kept, rows[kept.position : kept.position + _BATCH], actor)
            kept.refresh_from_db(fields=["position"])
    _finish(kept.pk)
    return False


def _carry_out(kept: DeviceImport, rows: Sequence[TableRow], actor: audit.Actor) -> Outcomes:
    """Do these rows, and move the position behind them in the same transaction. Raises Superseded.

    One after the other in a tenant: the same table twice at once would not see its own devices.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"device_import:{current_schema()}"])
    mine = DeviceImport.objects.select_for_update().filter(
        pk=kept.pk, position=kept.position, state__in=(State.RUNNING, State.WAITING)
    )
    locked = mine.defer("rows").first()
    if locked is None:
        raise Superseded
    done = import_application.carry_out(rows, kept.namespace, acting_user=actor)
    counts = done.counts()
    room = max(0, MOST_PROBLEMS - len(locked.problems))
    mine.update(
        position=F("position") + len(rows),
        added=F("added") + counts[import_application.NEW],
        updated=F("updated") + counts[import_application.UPDATED],
        unchanged=F("unchanged") + counts[import_application.UNCHANGED],
        refused=F("refused") + counts[import_application.ERROR],
        problems=locked.problems + [_as_json(row) for row in done.refused()[:room]],
        registered=[*locked.registered, *(issued.uuid for issued in done.issued)],
        note="",
        claimed_until=timezone.now() + _CLAIM,
    )
    return done


def _finish(import_id: int) -> None:
    DeviceImport.objects.filter(pk=import_id, state=State.RUNNING).update(
        state=State.DONE, rows=[], finished_at=timezone.now()
    )


def _as_json(row: Outcome) -> dict[str, object]:
    problems = [{"column": problem.column, "detail": problem.detail} for problem in row.problems]
    return {"row": row.row, "name": row.name, "errors": problems}
