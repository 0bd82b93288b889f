"""What the workers do at fixed times. One schedule for all tenants, never one for each."""

from django_q.models import Schedule

SCHEDULES: dict[str, tuple[str, int]] = {
    # name → (function, minutes between runs)
    "Key rotations that are under way": ("devices.services.rotation.steps.step_all", 1),
    "Broker accounts in step with the registered devices": ("devices.services.broker_sync.sync_broker", 10),
    "Imports of devices that nobody is at": ("devices.services.imports.runs.resume_all", 1),
    "Hourly and daily values": ("telemetry.services.rounds.roll_up", 1),
    "Newest values: what Redis missed": ("telemetry.services.rounds.keep_latest", 1),
    "Newest values: into the table": ("telemetry.services.rounds.move_latest", 10),
    "Days to pack": ("telemetry.services.rounds.pack", 60),
    "Refusals by limits: old ones summed up": ("telemetry.services.rounds.fold_refusals", 1440),
    "Retention": ("telemetry.services.rounds.retain", 60),
    "Quarantine: what is too old or too much": ("telemetry.services.rounds.keep_quarantine", 20),
    "Replays that nobody is at": ("telemetry.services.rounds.resume_replays", 1),
}


def install_schedules() -> int:
    """Make the schedules that are missing, and bring the others up to date. Returns how many there are."""
    for name, (function, minutes) in SCHEDULES.items():
        Schedule.objects.update_or_create(
            name=name, defaults={"func": function, "schedule_type": Schedule.MINUTES, "minutes": minutes}
        )
    return len(SCHEDULES)
