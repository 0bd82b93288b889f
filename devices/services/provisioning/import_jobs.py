"""Imports of devices as resumable jobs of the current schema, and the credentials that they hand over."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from devices.models import Device, DeviceImport
from devices.services import audit
from devices.services.broker import accounts
from devices.services.provisioning.registration import IssuedCredentials
from devices.services.vault.secret_store import SecretMissing, SecretsUnavailable, provisioner
from tenants.infrastructure import resumable_jobs, tasks
from tenants.infrastructure.database import current_schema
from tenants.infrastructure.spreadsheets import TableRow
from tenants.services.active_tenants import sum_over_active

from . import import_application
from .import_application import ImportedRow, ImportResult

logger = logging.getLogger(__name__)

State = DeviceImport.State
STEP = "devices.services.provisioning.import_jobs.step"
MOST_AT_ONCE = 3
MOST_PROBLEMS = 200
HANDED_AT_ONCE = 1000
_BATCH = 50
_SECONDS = 60.0
_CHECKED_KEPT = timedelta(days=1)


class HasErrors(Exception):
    """Rows have errors, and the import does not skip them: nothing was done."""

    def __init__(self, found: ImportResult) -> None:
        super().__init__(f"{len(found.refused())} rows have errors")
        self.found = found


def keep(rows: Sequence[TableRow], filename: str, *, encoding: str = "", acting_user: audit.Actor) -> DeviceImport:
    """Store a table that a person reviews before the import begins, and delete those stored for more than a day."""
    DeviceImport.objects.filter(state=State.CHECKED, created_at__lt=timezone.now() - _CHECKED_KEPT).delete()
    return _create(rows, filename, State.CHECKED, encoding=encoding, skip_errors=False, acting_user=acting_user)


def import_rows(
    rows: Sequence[TableRow],
    filename: str = "",
    *,
    encoding: str = "",
    skip_errors: bool = False,
    acting_user: audit.Actor = None,
) -> tuple[DeviceImport, ImportResult | None]:
    """Register the devices of the rows; return the import and its outcomes, None where a worker does a large one.

    Raises HasErrors unless `skip_errors`, ValidationError when too many imports are under way, and SecretsUnavailable;
    nothing is registered then.
    """
    with accounts.batch_grants(), transaction.atomic():
        kept = _create(
            rows, filename, State.CHECKED, encoding=encoding, skip_errors=skip_errors, acting_user=acting_user
        )
        return kept, begin(kept, skip_errors=skip_errors, acting_user=acting_user, hand_over=True)


def begin(
    kept: DeviceImport, *, skip_errors: bool, acting_user: audit.Actor = None, hand_over: bool = False
) -> ImportResult | None:
    """Begin a stored import as `import_rows` does. With `hand_over` the outcomes' credentials count as handed over."""
    rows = rows_of(kept)
    found = import_application.dry_run(rows)
    if found.refused() and not skip_errors:
        raise HasErrors(found)
    at_once = len(rows) <= settings.IMPORT_AT_ONCE
    with accounts.batch_grants(), transaction.atomic():
        if not resumable_jobs.has_room(DeviceImport, MOST_AT_ONCE):
            raise ValidationError(
                _("%(most)d imports are under way already: wait for one to end.") % {"most": MOST_AT_ONCE}
            )
        changed = {"skip_errors": skip_errors, "state": State.RUNNING if at_once else State.WAITING}
        if not DeviceImport.objects.filter(pk=kept.pk, state=State.CHECKED).update(**changed):
            raise ValidationError(_("The import was begun already."))
        resumable_jobs.assign(kept, changed)
        audit.record(acting_user, "import", kept, f"{len(rows)} rows")
        if not at_once:
            transaction.on_commit(lambda: tasks.enqueue(STEP, kept.pk))
            done = None
        else:
            done = _begin_at_once(kept, rows, acting_user, hand_over=hand_over)
    kept.refresh_from_db()
    return done


def step(import_id: int, *, queue: bool = True) -> str:
    """Do an import's steps for a while; return how far it is. What is left is queued, unless `queue` is False."""
    return resumable_jobs.work(DeviceImport, import_id, _open_steps, seconds=_SECONDS, task=STEP if queue else "")


def resume_all() -> int:
    """Queue a step of each import without a worker, in every active tenant; return how many."""
    return sum_over_active("imports", lambda: resumable_jobs.enqueue_idle(DeviceImport, STEP))


def hand_over(kept: DeviceImport, *, acting_user: audit.Actor = None) -> list[tuple[Device, IssuedCredentials]]:
    """Return the credentials of the next registered devices, up to `HANDED_AT_ONCE`, each once.

    They are read from Vault. Devices that were removed meanwhile are left out. Raises SecretsUnavailable; nothing
    counts as handed over then.
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
    """Return the table's rows."""
    return [TableRow(number, cells) for number, cells in kept.rows]


def _create(
    rows: Sequence[TableRow],
    filename: str,
    state: State,
    *,
    encoding: str,
    skip_errors: bool,
    acting_user: audit.Actor,
) -> DeviceImport:
    who = audit.named(acting_user)
    return DeviceImport.objects.create(
        filename=filename.replace("\0", "")[-200:],
        encoding=encoding,
        state=state,
        skip_errors=skip_errors,
        rows=[[row.number, row.cells] for row in rows],
        total=len(rows),
        created_by_id=who.user_id,
        created_by_label=who.user_label,
    )


def _begin_at_once(
    kept: DeviceImport, rows: Sequence[TableRow], acting_user: audit.Actor, *, hand_over: bool
) -> ImportResult:
    """Do a small import in the current transaction. Raises HasErrors where rows became invalid since the check."""
    done, values = _do_rows(kept, rows, acting_user)
    if done.refused() and not kept.skip_errors:
        raise HasErrors(done)
    resumable_jobs.assign(kept, values)
    if hand_over:
        DeviceImport.objects.filter(pk=kept.pk).update(handed_over=len(done.issued))
    resumable_jobs.finish(kept)
    return done


@contextmanager
def _open_steps(kept: DeviceImport) -> Iterator[Callable[[], bool]]:
    rows = rows_of(kept)
    actor = audit.Named(kept.created_by_id, kept.created_by_label)

    def do_next() -> bool:
        batch = rows[kept.position : kept.position + _BATCH]
        if not batch:
            return False
        try:
            with transaction.atomic():
                _outcomes, values = _do_rows(kept, batch, actor)
        except SecretsUnavailable as error:
            logger.warning("Import %d is blocked: Vault is unavailable (%s)", kept.pk, error)
            raise resumable_jobs.Blocked("Vault") from error
        resumable_jobs.assign(kept, values)
        return True

    with accounts.batch_grants():
        yield do_next


def _do_rows(kept: DeviceImport, rows: Sequence[TableRow], actor: audit.Actor) -> tuple[ImportResult, dict[str, Any]]:
    """Register these rows as a step of the import; return also the values of its row. Raises Superseded."""
    # One import of a tenant at a time: two of the same table at once would not see each other's devices.
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"device_import:{current_schema()}"])
    locked = resumable_jobs.lock(kept, "rows")
    done = import_application.apply_rows(rows, kept.namespace, acting_user=actor)
    counts = done.counts()
    room = max(0, MOST_PROBLEMS - len(locked.problems))
    values = resumable_jobs.advance(
        kept,
        position=kept.position + len(rows),
        added=locked.added + counts[import_application.NEW],
        updated=locked.updated + counts[import_application.UPDATED],
        unchanged=locked.unchanged + counts[import_application.UNCHANGED],
        refused=locked.refused + counts[import_application.ERROR],
        problems=locked.problems + [_as_json(row) for row in done.refused()[:room]],
        registered=[*locked.registered, *(issued.uuid for issued in done.issued)],
    )
    return done, values


def _as_json(row: ImportedRow) -> dict[str, object]:
    problems = [{"column": problem.column, "detail": problem.detail} for problem in row.problems]
    return {"row": row.row, "name": row.name, "errors": problems}
