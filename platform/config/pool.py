"""The connections of the web server's pool."""

import time
from typing import Any

from psycopg import Connection, Cursor

# Within this time after a check a connection is taken from the pool without another one.
CHECK_SECONDS = 1.0


class PooledConnection(Connection[Any]):
    """A connection that the pool checks when it is taken, at most once a second.

    django-tenants sets the search path with the first statement after a connection is taken, whatever it was before.
    """

    _checked_until = float("-inf")

    def execute(self, query: Any, *arguments: Any, **options: Any) -> Cursor[Any]:
        """Execute a statement; the empty one, by which the pool checks the connection, only when it is due."""
        if query:
            return super().execute(query, *arguments, **options)
        if time.monotonic() < self._checked_until:
            return self.cursor()
        found = super().execute(query, *arguments, **options)
        self._checked_until = time.monotonic() + CHECK_SECONDS
        return found
