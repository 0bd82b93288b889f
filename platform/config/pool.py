"""The reset of a pooled connection when it is returned."""

from psycopg import Connection


def reset_search_path(connection: Connection) -> None:
    """Reset the search path: the next request sets its own."""
    connection.execute("RESET search_path")
    connection.commit()
