"""The search path of the connection, which is set once and not before each statement, after rollbacks and switches.

It is part of the transaction: a rollback also takes back the path that was set since (django-tenants issue 1262).
"""

import random
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import pytest
from django.conf import settings
from django.db import DataError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django_tenants.utils import schema_context

from tests.processes import run_at_once

SCHEMAS = ("t_alpha", "t_beta_farm")


class _Undo(Exception):
    pass


def _schema() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_schema()")
        (found,) = cursor.fetchone()
    return str(found)


@pytest.fixture
def schemas(live_db: None, tenant_a: Any, tenant_b: Any) -> Iterator[tuple[str, ...]]:
    connection.close()
    yield SCHEMAS
    connection.close()


def test_the_path_is_set_once_for_a_schema(schemas: tuple[str, ...]) -> None:
    assert settings.TENANT_LIMIT_SET_CALLS
    with schema_context(schemas[0]), CaptureQueriesContext(connection) as queries:
        assert [_schema() for _ in range(3)] == [schemas[0]] * 3
    assert sum("search_path" in query["sql"] for query in queries) == 1


def _switch_and_undo(schema: str) -> None:
    """Run a statement in another schema, in a transaction or savepoint that is rolled back."""
    with suppress(_Undo), transaction.atomic(), schema_context(schema):
        assert _schema() == schema
        raise _Undo


def test_a_savepoint_that_is_rolled_back_after_a_switch(schemas: tuple[str, ...]) -> None:
    first, second = schemas
    with schema_context(first), transaction.atomic():
        assert _schema() == first
        _switch_and_undo(second)
        assert _schema() == first
        with schema_context(second):
            _switch_and_undo(second)
            assert _schema() == second
        assert _schema() == first


def test_a_transaction_that_is_rolled_back_after_a_switch(schemas: tuple[str, ...]) -> None:
    first, second = schemas
    with schema_context(first):
        assert _schema() == first
        _switch_and_undo(second)
        assert _schema() == first


def test_a_statement_that_fails_after_a_switch(schemas: tuple[str, ...]) -> None:
    first, second = schemas
    with schema_context(first), transaction.atomic():
        with schema_context(second), suppress(DataError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT 1 / 0")
        assert _schema() == first
        with schema_context(second):
            assert _schema() == second


def test_any_nesting_of_switches_and_rollbacks(schemas: tuple[str, ...]) -> None:
    for seed in range(60):
        _nest(random.Random(seed), 0)  # in the public schema
    for seed in range(60):
        with schema_context(schemas[seed % 2]):
            _nest(random.Random(seed), 0)


def _nest(chance: random.Random, depth: int) -> None:
    expected = str(connection.schema_name)  # type: ignore[attr-defined]
    for _ in range(3):
        assert _schema() == expected
        if depth < 4 and chance.random() < 0.7:
            undo = chance.random() < 0.5
            try:
                with ExitStack() as stack:
                    for enter in chance.sample((transaction.atomic, _elsewhere(chance)), k=chance.randint(1, 2)):
                        stack.enter_context(enter())
                    _nest(chance, depth + 1)
                    if undo:
                        raise _Undo
            except _Undo:
                pass
    assert _schema() == expected


def _elsewhere(chance: random.Random) -> Any:
    schema = chance.choice((*SCHEMAS, "public"))
    return lambda: schema_context(schema)


def test_threads_with_connections_of_their_own(schemas: tuple[str, ...]) -> None:
    def switch(number: int) -> bool:
        for turn in range(20):
            with schema_context(schemas[(number + turn) % 2]):
                if _schema() != schemas[(number + turn) % 2]:
                    return False
        return True

    assert all(run_at_once([partial(switch, number) for number in range(8)]))
