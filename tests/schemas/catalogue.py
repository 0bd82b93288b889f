"""The objects of a schema in the catalogue of PostgreSQL, and its rows, for a comparison of two schemas."""

from typing import Any

from django.db import connection

Catalogue = dict[str, list[tuple[Any, ...]]]

# Each with the schema's name as its parameter. Numbers that depend on the order of creation are left out, and so are
# positions of columns; their order is compared.
_QUERIES = {
    "relations": """
        SELECT relname, relkind, relpersistence, relreplident, reloptions::text, relispartition,
               pg_get_expr(relpartbound, pg_class.oid), pg_get_partkeydef(pg_class.oid), pg_get_userbyid(relowner)
        FROM pg_class WHERE relnamespace = %s::regnamespace ORDER BY relname
    """,
    "columns": """
        SELECT relname, attname, format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated, attstorage,
               attcompression, attoptions::text, attstattarget, collname, pg_get_expr(adbin, adrelid)
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        LEFT JOIN pg_collation ON pg_collation.oid = attcollation
        WHERE relnamespace = %s::regnamespace AND attnum > 0 AND NOT attisdropped ORDER BY relname, attnum
    """,
    "constraints": """
        SELECT conname, conrelid::regclass::text, condeferrable, condeferred, convalidated, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = %s::regnamespace ORDER BY conname, 2
    """,
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = %s ORDER BY indexname",
    "sequences": """
        SELECT sequencename, data_type::text, start_value, increment_by, last_value
        FROM pg_sequences WHERE schemaname = %s AND sequencename <> 'django_migrations_id_seq' ORDER BY sequencename
    """,
    "types": "SELECT typname, typtype FROM pg_type WHERE typnamespace = %s::regnamespace ORDER BY typname",
    "functions": "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = %s::regnamespace ORDER BY proname",
    "triggers": """
        SELECT tgrelid::regclass::text, pg_get_triggerdef(pg_trigger.oid)
        FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
        WHERE relnamespace = %s::regnamespace AND NOT tgisinternal ORDER BY 1, 2
    """,
    "statistics": """
        SELECT stxname, pg_get_statisticsobjdef(oid) FROM pg_statistic_ext
        WHERE stxnamespace = %s::regnamespace ORDER BY stxname
    """,
    "descriptions": """
        SELECT relname, objsubid, description FROM pg_description JOIN pg_class ON pg_class.oid = objoid
        WHERE relnamespace = %s::regnamespace ORDER BY relname, objsubid
    """,
}


def read_catalogue(schema: str) -> Catalogue:
    """Return all objects of the schema by kind, and the rows of its tables, without the schema's own name."""
    objects = {kind: _rows(query, [schema]) for kind, query in _QUERIES.items()}
    objects |= {f"rows of {table}": _rows_of(schema, table) for table in _tables(schema)}
    return {kind: [_unqualified(schema, row) for row in rows] for kind, rows in objects.items()}


def _tables(schema: str) -> list[str]:
    query = "SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY tablename"
    return [table for (table,) in _rows(query, [schema])]


def _rows_of(schema: str, table: str) -> list[tuple[Any, ...]]:
    """Return a table's rows as text; of the table of migrations, their names."""
    columns = "app, name" if table == "django_migrations" else f"{table}::text"
    return _rows(f'SELECT {columns} FROM "{schema}"."{table}" ORDER BY {columns}', [])  # noqa: S608 (names of ours)


def _rows(query: str, parameters: list[str]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return list(cursor.fetchall())


def _unqualified(schema: str, row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.replace(f"{schema}.", "") if isinstance(value, str) else value for value in row)
