"""What the workers do at fixed times. One schedule for all tenants, never one for each."""

from django_q.models import Schedule

SCHEDULES: dict[str, tuple[str, int]] = {
    # name → (function, minutes between runs)
    "Key rotations that are under way": ("devices.services.rotation.steps.step_all", 1),
    "Broker accounts in step with the registered devices": ("devices.services.broker.synchronization.sync_broker", 10),
    "Imports of devices that nobody is at": ("devices.services.provisioning.import_jobs.resume_all", 1),
    "Hourly and daily values": ("telemetry.services.periodic_tasks.roll_up", 1),
    "Newest values: what Redis missed": ("telemetry.services.periodic_tasks.keep_latest", 1),
    "Newest values: into the table": ("telemetry.services.periodic_tasks.move_latest", 10),
    "Days to pack": ("telemetry.services.periodic_tasks.pack", 60),
    "Refusals by limits: old ones summed up": ("telemetry.services.periodic_tasks.fold_refusals", 1440),
    "Retention": ("telemetry.services.periodic_tasks.retain", 60),
    "Quarantine: what is too old or too much": ("telemetry.services.periodic_tasks.keep_quarantine", 20),
    "Replays that nobody is at": ("telemetry.services.periodic_tasks.resume_replays", 1),
}


def install_schedules() -> int:
    """Make the schedules that are missing, and bring the others up to date. Returns how many there are."""
    for name, (function, minutes) in SCHEDULES.items():
        Schedule.objects.update_or_create(
            name=name, defaults={"func": function, "schedule_type": Schedule.MINUTES, "minutes": minutes}
        )
    return len(SCHEDULES)
