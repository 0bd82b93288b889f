"""The workers' schedules: one for all tenants, never one for each."""

from django_q.models import Schedule

SCHEDULES: dict[str, tuple[str, int]] = {
    # name → (function, minutes between runs)
    "Key rotations: due steps": ("devices.services.rotation.steps.step_all", 1),
    "Broker accounts: synchronization": ("devices.services.broker.synchronization.sync_broker", 10),
    "Imports of devices without a worker": ("devices.services.provisioning.import_jobs.resume_all", 1),
    "Hourly and daily values": ("telemetry.services.periodic_tasks.roll_up", 1),
    "Newest values: complete Redis": ("telemetry.services.periodic_tasks.keep_latest", 1),
    "Newest values: write the table": ("telemetry.services.periodic_tasks.move_latest", 10),
    "Days to pack": ("telemetry.services.periodic_tasks.pack", 60),
    "Refusals by limits: sum up old counts": ("telemetry.services.periodic_tasks.fold_refusals", 1440),
    "Retention": ("telemetry.services.periodic_tasks.retain", 60),
    "Retention of the quarantine": ("telemetry.services.periodic_tasks.keep_quarantine", 20),
    "Replays without a worker": ("telemetry.services.periodic_tasks.resume_replays", 1),
}
# Name in release 0.1 → name. A schedule that kept its former name would run twice. Remove with release 0.3.
_RENAMED = {
    "Key rotations that are under way": "Key rotations: due steps",
    "Broker accounts in step with the registered devices": "Broker accounts: synchronization",
    "Imports of devices that nobody is at": "Imports of devices without a worker",
    "Newest values: what Redis missed": "Newest values: complete Redis",
    "Newest values: into the table": "Newest values: write the table",
    "Refusals by limits: old ones summed up": "Refusals by limits: sum up old counts",
    "Quarantine: what is too old or too much": "Retention of the quarantine",
    "Replays that nobody is at": "Replays without a worker",
}


def install_schedules() -> int:
    """Create the missing schedules and update the others; return how many there are."""
    _rename()
    for name, (function, minutes) in SCHEDULES.items():
        Schedule.objects.update_or_create(
            name=name, defaults={"func": function, "schedule_type": Schedule.MINUTES, "minutes": minutes}
        )
    return len(SCHEDULES)


def _rename() -> None:
    installed = set(Schedule.objects.values_list("name", flat=True))
    for former, name in _RENAMED.items():
        if name in installed:
            Schedule.objects.filter(name=former).delete()
        else:
            Schedule.objects.filter(name=former).update(name=name)
