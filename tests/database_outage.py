"""PostgreSQL unreachable for one process: its connections cut, and new ones refused."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection

from management.embedded.stack import EmbeddedStack
from tests.faults.setup import superuser


@contextmanager
def cut_off(stack: EmbeddedStack, application_name: str) -> Iterator[None]:
    """Cut the connections of that name, and let the role of the platform open no others while the block lasts.

    The connection of the test itself stays open.
    """
    role = connection.ops.quote_name(connection.settings_dict["USER"])
    superuser(stack, f"ALTER ROLE {role} CONNECTION LIMIT 0")
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = %s",
                [application_name],
            )
            assert cursor.fetchone()[0], "the process has no connection"
        yield
    finally:
        superuser(stack, f"ALTER ROLE {role} CONNECTION LIMIT -1")
