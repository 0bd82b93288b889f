"""What a pooled connection must look like when it goes back."""

from psycopg import Connection


def reset_search_path(connection: Connection) -> None:
    """Forget the tenant: the next borrower sets its own search path."""
    connection.execute("RESET search_path")
    connection.commit()
