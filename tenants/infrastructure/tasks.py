"""Background tasks of a tenant: queued with its schema, and run in a context of that schema.

A worker's connection outlives its tasks: a schema that a task sets itself would be the next task's.
"""

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.utils.module_loading import import_string
from django_tenants.utils import schema_context

from .database import current_schema

# How long a task keeps a worker while tasks of other tenants wait, and how often it looks, in seconds.
TURN_SECONDS = 3.0
_LOOK_SECONDS = 0.5


class Turn:
    """A task's time at its worker: up to `seconds`, and only `TURN_SECONDS` while tasks of other tenants wait.

    Without `may_yield`, for commands, only `seconds` counts.
    """

    def __init__(self, seconds: float, *, may_yield: bool = True) -> None:
        now = time.monotonic()
        self._ends_at = now + seconds
        self._looks_at = now + TURN_SECONDS
        self._may_yield = may_yield
        self.is_yielded = False

    @property
    def remaining(self) -> float:
        """Seconds until the end, 0 after it."""
        return 0.0 if self.is_yielded else max(0.0, self._ends_at - time.monotonic())

    def is_over(self) -> bool:
        """Return whether the task must end, and be queued again where work is left."""
        now = time.monotonic()
        if self._may_yield and not self.is_yielded and now >= self._looks_at:
            from .task_broker import others_wait  # a listener imports this module, and has no queue

            self._looks_at = now + _LOOK_SECONDS
            self.is_yielded = others_wait()
        return self.is_yielded or now >= self._ends_at


def enqueue(function: str, *args: Any, **kwargs: Any) -> str:
    """Queue a function by its dotted path for the current schema and return the task's id."""
    from django_q.tasks import async_task  # a listener imports this module, and never queues

    return str(
        async_task("tenants.infrastructure.tasks.run", current_schema(), function, args, kwargs, task_name=function)
    )


def schedule(at: datetime, function: str, *args: Any) -> None:
    """Run a function by its dotted path once, at that time or up to a minute later, for the current schema."""
    from django_q.models import Schedule
    from django_q.tasks import schedule as add

    add(
        "tenants.infrastructure.tasks.run",
        current_schema(),
        function,
        args,
        {},
        schedule_type=Schedule.ONCE,
        next_run=at,
    )


def run(schema: str, function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the function in the schema and return its result, which must not be lazy. Runs in the worker."""
    call: Callable[..., Any] = import_string(function)
    with schema_context(schema):
        return call(*args, **kwargs)
