"""Background tasks and schedules of django-q on the console, read-only."""

from typing import ClassVar

from django.contrib import admin
from django.utils.translation import gettext_lazy as _
from django_q.models import Failure, OrmQ, Schedule, Success
from unfold.admin import ModelAdmin

from tenants.infrastructure import hooks

from .base import LongList, ReadOnly
from .site import console


@admin.register(Success, Failure, site=console)
class TaskAdmin(ReadOnly, LongList, ModelAdmin):
    """Finished tasks. `Success` and `Failure` are proxy models that differ in a filter."""

    list_display: ClassVar = ["name", "func", "started", "stopped", "attempt_count"]
    search_fields: ClassVar = ["name", "func"]
    list_filter: ClassVar = ["func"]
    fields: ClassVar = ["id", "name", "func", "args", "kwargs", "started", "stopped", "attempt_count", "result"]
    readonly_fields: ClassVar = fields


@admin.register(Schedule, site=console)
class ScheduleAdmin(ReadOnly, ModelAdmin):
    """Schedules of periodic tasks."""

    list_display: ClassVar = ["__str__", "func", "schedule_type", "repeats", "next_run"]
    fields: ClassVar = ["name", "func", "args", "kwargs", "schedule_type", "minutes", "repeats", "next_run"]
    readonly_fields: ClassVar = fields


@admin.register(OrmQ, site=console)
class WaitingTaskAdmin(ReadOnly, ModelAdmin):
    """Queued tasks."""

    list_display: ClassVar = ["id", "key", "name", "func", "lock"]
    fields: ClassVar = ["id", "key", "name", "func", "lock"]
    readonly_fields: ClassVar = fields


_NAVIGATION = hooks.NavigationGroup(
    _("Background work"),
    (
        (OrmQ, "pending_actions"),
        (Success, "task_alt"),
        (Failure, "error"),
        (Schedule, "schedule"),
    ),
)
hooks.console_navigation.register(_NAVIGATION, order=30)
