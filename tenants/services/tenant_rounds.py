"""Rounds over tenants: work in the schema of each of them, which goes on where it fails for one."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from django.db import connection
from django_tenants.utils import schema_context

from tenants.infrastructure.retry import first_line
from tenants.infrastructure.sql_errors import DATABASE_ERRORS, ErrorKind, kind_of
from tenants.infrastructure.tenant_failures import clear_failures, record_failures

logger = logging.getLogger(__name__)

# How long a round waits for a tenant's locks.
_LOCK_TIMEOUT = "2s"
# Failures of periodic work are shown until it works again, or for so long after the last round.
SHOWN_SECONDS = 7200.0

Result = TypeVar("Result")


@dataclass(slots=True)
class TenantRound(Generic[Result]):
    """The results of a round and the errors of the tenants where it failed, by schema."""

    results: dict[str, Result] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def visit_each(work: str, schemas: Iterable[str], visit: Callable[[], Result]) -> TenantRound[Result]:
    """Call the function in each schema; its result must not be lazy. A tenant's database error does not end the round.

    The failures are logged at the end, and recorded under the name of the work. Raises the errors of a lost database.
    """
    done: TenantRound[Result] = TenantRound()
    for schema in schemas:
        try:
            with schema_context(schema), bounded_lock_waits():
                done.results[schema] = visit()
        except DATABASE_ERRORS as error:
            if kind_of(error) is ErrorKind.SERVER:
                raise
            done.failures[schema] = first_line(error)
    note_round(work, done.results, done.failures)
    return done


def note_round(work: str, succeeded: Iterable[str], failures: dict[str, str]) -> None:
    """Log and record the failures of a round, and remove those of the schemas for which it succeeded."""
    clear_failures(work, succeeded)
    record_failures(work, failures, SHOWN_SECONDS)
    if failures:
        listed = "; ".join(f"{schema}: {detail}" for schema, detail in sorted(failures.items())[:20])
        logger.error("%s failed for %d tenants, and is done for the others: %s", work, len(failures), listed)


@contextmanager
def bounded_lock_waits() -> Iterator[None]:
    """Limit how long statements of Django's connection wait for a lock within the block."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
    try:
        yield
    finally:
        if connection.connection is not None and not connection.needs_rollback:
            with connection.cursor() as cursor:
                cursor.execute("RESET lock_timeout")
