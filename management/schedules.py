"""What the workers do at fixed times. One schedule for all tenants, never one for each."""

from django_q.models import Schedule

SCHEDULES: dict[str, tuple[str, int]] = {
    # name → (function, minutes between runs)
    "Broker accounts in step with the registered devices": ("devices.services.broker_sync.sync_broker", 10),
}


def install_schedules() -> int:
    """Make the schedules that are missing, and bring the others up to date. Returns how many there are."""
    for name, (function, minutes) in SCHEDULES.items():
        Schedule.objects.update_or_create(
            name=name, defaults={"func": function, "schedule_type": Schedule.MINUTES, "minutes": minutes}
        )
    return len(SCHEDULES)
