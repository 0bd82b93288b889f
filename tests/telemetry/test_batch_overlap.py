"""A batch is prepared while PostgreSQL stores another: no message of either is lost, doubled or acknowledged early."""

import select
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests import payloads
from tests.factories import Registered

from .test_tenant_writer import both_versions, incoming, ingest, stored

__all__ = ["ingest"]


def values(device: Registered, count: int, first: int) -> list[Any]:
    return incoming(
        [
            (payloads.topic(device), payloads.v2(device, {"humidity": 20 + n / 100}, seq=n))
            for n in range(first, first + count)
        ]
    )


def test_a_batch_is_settled_by_the_next_call(ingest: Any, register: Any) -> None:
    device = register()
    first, second = values(device, 10, 0), values(device, 10, 10)
    assert ingest.advance(first).to_acknowledge == []
    assert ingest.is_storing
    result = ingest.advance(second)
    assert (result.stored, result.to_acknowledge) == (10, first)
    result = ingest.advance(())
    assert (result.stored, result.to_acknowledge) == (10, second)
    assert not ingest.is_storing
    assert ingest.advance(()).to_acknowledge == []
    assert stored(device) == (20, [20 + n / 100 for n in range(20)])


def test_the_answer_can_be_waited_for(ingest: Any, register: Any) -> None:
    device = register()
    assert ingest.writer.answer_socket is None
    ingest.advance(values(device, 5, 0))
    answering = ingest.writer.answer_socket
    assert answering is not None
    assert select.select([answering], [], [], 5)[0]
    assert stored(device)[0] == 5, "committed when the answer is there"
    assert len(ingest.advance(()).to_acknowledge) == 5
    assert ingest.writer.answer_socket is None


def test_the_same_messages_in_two_batches_are_stored_once(ingest: Any, register: Any, tenant_b: Any) -> None:
    device, other = register(), register(tenant=tenant_b)
    first = values(device, 10, 0)
    again = first + values(device, 2, 10) + values(other, 3, 0)
    ingest.advance(first)
    assert ingest.advance(again).stored == 10
    result = ingest.advance(())
    assert (result.stored, result.duplicates, len(result.to_acknowledge)) == (5, 10, 15)
    assert stored(device)[0] == 12


def test_version_1_is_not_taken_behind_a_version_2_that_is_being_stored(ingest: Any, register: Any) -> None:
    device = register()
    ingest.advance(values(device, 1, 0))
    ingest.advance(incoming([(payloads.topic(device), payloads.v1(device, {"temp": 20}))]))
    result = ingest.advance(())
    assert (result.stored, result.quarantined) == (0, 1)


def test_when_the_connection_breaks_both_batches_are_tried_again(ingest: Any, register: Any) -> None:
    device = register()
    first, second = values(device, 10, 0), values(device, 10, 10)
    ingest.process(values(device, 1, 100))
    ingest.advance(first)
    backend = ingest.writer._connection.info.backend_pid
    with psycopg.connect(ingest.writer._conninfo, autocommit=True) as killer:
        killer.execute("SELECT pg_terminate_backend(%s)", [backend])
    # Its answer may have been on its way already; the second batch's cannot.
    settled = []
    try:
        settled = ingest.advance(second).to_acknowledge
        with pytest.raises(psycopg.OperationalError):
            ingest.advance(())
    except psycopg.OperationalError:
        pass
    ingest.abandon()
    assert settled in ([], first)
    left = [message for message in first + second if message not in settled]
    result = ingest.process(left)
    assert result.to_acknowledge == left
    assert stored(device)[0] == 21


def test_what_cannot_be_sent_is_found_when_it_is_settled(ingest: Any, register: Any) -> None:
    """Two messages with one counter are known not to go in together: there is no answer to wait for."""
    device = register()
    batch = values(device, 3, 0) + incoming([(payloads.topic(device), payloads.v2(device, {"humidity": 99}, seq=2))])
    ingest.advance(batch)
    assert ingest.is_storing
    assert ingest.writer.answer_socket is None
    result = ingest.advance(())
    assert (result.stored, result.quarantined, len(result.to_acknowledge)) == (3, 1, 4)


def test_nothing_else_is_stored_while_a_batch_is_on_its_way(ingest: Any, register: Any) -> None:
    device = register()
    ingest.advance(values(device, 3, 0))
    with pytest.raises(RuntimeError, match="must be received"):
        ingest.writer.store(device.tenant.schema_name, [])
    assert ingest.advance(()).stored == 3


def test_messages_behind_those_of_a_locked_tenant_keep_their_order(ingest: Any, register: Any, tenant_b: Any) -> None:
    locked, free = register(), register(tenant=tenant_b)
    ingest.process(incoming(both_versions(locked, 2) + both_versions(free, 2)))
    first = values(locked, 3, 10)
    second = values(locked, 3, 20) + values(free, 3, 20)
    with psycopg.connect(ingest.writer._conninfo) as blocker:
        table = sql.Identifier(locked.tenant.schema_name, "telemetry_message")
        blocker.execute(sql.SQL("LOCK TABLE {}").format(table))
        ingest.advance(first)
        assert ingest.advance(second).to_acknowledge == []
        assert ingest.advance(()).to_acknowledge == second[3:]
    assert ingest.blocked_messages == 6
    ingest._blocked._retry_at = 0.0
    assert ingest.retry_blocked().to_acknowledge == first + second[:3]
    assert stored(locked)[0] == 8


def test_many_messages_of_a_locked_tenant_follow_in_their_order(ingest: Any, register: Any) -> None:
    """A few are tried first, and the rest as soon as those are stored."""
    device = register()
    ingest.process(values(device, 1, 1000))
    waiting = values(device, 60, 0)
    with psycopg.connect(ingest.writer._conninfo) as blocker:
        table = sql.Identifier(device.tenant.schema_name, "telemetry_message")
        blocker.execute(sql.SQL("LOCK TABLE {}").format(table))
        assert ingest.process(waiting).to_acknowledge == []
        ingest._blocked._retry_at = 0.0
        assert ingest.retry_blocked().to_acknowledge == []
        assert ingest.blocked_messages == 60
    ingest._blocked._retry_at = 0.0
    settled = ingest.retry_blocked().to_acknowledge
    assert 0 < len(settled) < 60
    assert ingest.is_retry_due, "the rest at once"
    settled += ingest.retry_blocked().to_acknowledge
    assert settled == waiting
    assert ingest.blocked_messages == 0
    assert stored(device)[0] == 61
