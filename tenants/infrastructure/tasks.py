"""Background tasks of a tenant: queued with its schema, and run in a context of that schema.

A worker's connection outlives its tasks: a schema that a task sets itself would be the next task's.
"""

from collections.abc import Callable
from typing import Any

from django.utils.module_loading import import_string
from django_tenants.utils import schema_context

from .database import current_schema


def enqueue(function: str, *args: Any, **kwargs: Any) -> str:
    """Queue a function by its dotted path for the current schema and return the task's id."""
    from django_q.tasks import async_task  # a listener imports this module, and never queues

    return str(
        async_task("tenants.infrastructure.tasks.run", current_schema(), function, args, kwargs, task_name=function)
    )


def run(schema: str, function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the function in the schema and return its result, which must not be lazy. Runs in the worker."""
    call: Callable[..., Any] = import_string(function)
    with schema_context(schema):
        return call(*args, **kwargs)
