"""The workers' schedules: one for all tenants, never one for each."""

from django.db.models import Q
from django_q.models import Schedule

from tenants.infrastructure.renamed_paths import RENAMED

SCHEDULES: dict[str, tuple[str, int]] = {
    # name → (function, minutes between runs)
    "Key rotations: due steps": ("devices.services.rotation.steps.step_all", 1),
    "Broker accounts: synchronization": ("devices.services.broker.synchronization.sync_broker", 10),
    "Imports of devices without a worker": ("devices.services.provisioning.import_jobs.resume_all", 1),
    "Stored answers: remove the expired": ("devices.services.idempotency.remove_all_expired", 60),
    "Changes of objects: remove the expired": ("devices.services.object_changes.remove_all_expired", 60),
    "Audit: chain what is left unchained": ("devices.services.audit_chain.chain_every_tenant", 5),
    "Hourly and daily values": ("telemetry.services.periodic_tasks.roll_up", 1),
    "Newest values: complete Redis": ("telemetry.services.periodic_tasks.refill_latest", 1),
    "Newest values: write the table": ("telemetry.services.periodic_tasks.persist_latest", 10),
    "Days to pack": ("telemetry.services.periodic_tasks.pack_readings", 60),
    "Refusals by limits: merge old counts": ("telemetry.services.periodic_tasks.merge_limit_counts", 1440),
    "Retention": ("telemetry.services.periodic_tasks.apply_retention", 60),
    "Retention of the quarantine": ("telemetry.services.periodic_tasks.apply_quarantine_retention", 20),
    "Replays without a worker": ("telemetry.services.periodic_tasks.resume_replays", 1),
}
# The former name of the one schedule whose function kept its path.
_FORMER_ROTATIONS = "Key rotations that are under way"


def install_schedules() -> int:
    """Create the missing schedules and update the others; return how many there are."""
    _remove_renamed()
    for name, (function, minutes) in SCHEDULES.items():
        Schedule.objects.update_or_create(
            name=name, defaults={"func": function, "schedule_type": Schedule.MINUTES, "minutes": minutes}
        )
    return len(SCHEDULES)


def _remove_renamed() -> None:
    """Remove schedules that revisions before 0.2.0 installed under other names: they would run beside the new ones.

    They are recognized by the former path of their function, so that an operator's own schedules stay.
    """
    current = {function for function, _minutes in SCHEDULES.values()}
    former = Q(func__in=[path for path, renamed in RENAMED.items() if renamed in current]) | Q(name=_FORMER_ROTATIONS)
    Schedule.objects.filter(former, schedule_type=Schedule.MINUTES).exclude(name__in=SCHEDULES).delete()
