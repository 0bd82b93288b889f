"""Background tasks of a tenant: queued with its schema, run inside it, and left again whatever happens.

A worker's connection outlives its tasks, so a task that set the schema itself would leave it to the next one.
"""

from collections.abc import Callable
from typing import Any

from django.utils.module_loading import import_string
from django_q.tasks import async_task
from django_tenants.utils import schema_context

from .schema_context import current_schema


def enqueue(function: str, *args: Any, **kwargs: Any) -> str:
    """Queue the function (by its dotted path) for the current schema; returns the task's id."""
    return str(
        async_task("tenants.infrastructure.jobs.run", current_schema(), function, args, kwargs, task_name=function)
    )


def run(schema: str, function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """In the worker: call the function inside the schema. What it returns must not be lazy."""
    call: Callable[..., Any] = import_string(function)
    with schema_context(schema):
        return call(*args, **kwargs)
