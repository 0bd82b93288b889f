"""The executor of `migrate_schemas`: a tenant whose migration fails does not stop those of the others."""

import logging
from typing import Any

from django.core.management.base import CommandError
from django.db import connection
from django_tenants.migration_executors import get_executor
from django_tenants.migration_executors.base import run_migrations
from django_tenants.migration_executors.standard import StandardExecutor

from tenants.infrastructure.database import leave_schema
from tenants.infrastructure.retry import first_line

from .recorded_schemas import fill_empty_schema
from .tenant_rounds import note_round

logger = logging.getLogger(__name__)

_WORK = "migrations"
# Options of `migrate_schemas`.
_NOT_ALL_MIGRATIONS = ("app_label", "fake", "fake_initial", "plan", "check_unapplied", "prune")


class TenantMigrations(StandardExecutor):
    """Migrates the schemas one after the other, and lists at the end those where it failed."""

    def run_migrations(self, tenants: Any = None) -> None:
        """Migrate the schemas. Raises CommandError at the end where some failed; a single schema's error as it is."""
        schemas = list(tenants or [])
        if self.PUBLIC_SCHEMA_NAME in schemas or len(schemas) == 1:
            self._fill_where_empty(self.PUBLIC_SCHEMA_NAME if len(schemas) > 1 else schemas[0])
            super().run_migrations(schemas)
            return
        failures: dict[str, str] = {}
        for number, schema in enumerate(schemas):
            try:
                self._fill_where_empty(schema)
                run_migrations(self.args, self.options, self.codename, schema, idx=number, count=len(schemas))
            except Exception as error:
                logger.exception("%s: migrating failed", schema)
                failures[schema] = f"{type(error).__name__}: {first_line(error)}"
                connection.close()
                leave_schema()
        note_round(_WORK, [schema for schema in schemas if schema not in failures], failures)
        if failures:
            raise CommandError(_table(failures, len(schemas)))

    def _fill_where_empty(self, schema: str) -> None:
        """Execute the recorded migrations at once, unless the command is to do something else than all of them."""
        if not any(self.options.get(name) for name in _NOT_ALL_MIGRATIONS) and fill_empty_schema(schema):
            logger.info("%s: filled by the recorded statements of its migrations", schema)


def executor_named(codename: str | None = None) -> Any:
    """Return the executor's class; `standard` is the default and ours."""
    executor = get_executor(codename=codename)
    return TenantMigrations if executor is StandardExecutor else executor


def _table(failures: dict[str, str], count: int) -> str:
    width = max(map(len, failures))
    rows = [f"  {schema:<{width}}  {detail}" for schema, detail in failures.items()]
    head = f"{len(failures)} of {count} tenants could not be migrated; the others are. Mend them, and run it again:"
    return "\n".join([head, *rows])
