"""Shares of a process's connections: bounded for each tenant, and small for one whose requests wait in vain."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tenants.infrastructure import connection_shares
from tenants.infrastructure.connection_shares import ConnectionShares
from tests.processes import run_at_once, wait_until


@contextmanager
def taken(shares: ConnectionShares, schema: str, count: int) -> Iterator[list[bool]]:
    with ExitStack() as stack:
        yield [stack.enter_context(shares.slot(schema, lambda: None)) for _ in range(count)]


def test_a_tenant_has_its_slots_and_the_others_theirs() -> None:
    shares = ConnectionShares(2, patience=0.01)
    returned: list[str] = []
    with taken(shares, "t_one", 2) as granted:
        assert granted == [True, True]
        with shares.slot("t_one", lambda: returned.append("connection")) as has_slot:
            assert not has_slot
        assert returned == ["connection"], "it waits without one"
        with taken(shares, "t_two", 2) as others:
            assert others == [True, True]
    with taken(shares, "t_one", 2) as granted:
        assert granted == [True, True]
    assert not shares._shares, "unused shares are kept"


def test_a_waiting_request_takes_the_slot_that_becomes_free() -> None:
    shares = ConnectionShares(1, patience=30)
    granted: list[bool] = []

    def wait() -> None:
        with shares.slot("t_one", lambda: None) as has_slot:
            granted.append(has_slot)

    with taken(shares, "t_one", 1):
        threads = [threading.Thread(target=wait) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: shares._shares["t_one"].waiting == 4, 60, "they do not wait")
        with shares.slot("t_one", lambda: None) as has_slot:
            assert not has_slot, "no more may wait"
    for thread in threads:
        thread.join(60)
    assert granted == [True] * 4
    assert not shares._shares


def test_a_strained_tenant_has_one_slot_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = ConnectionShares(4, patience=0.01)
    shares.strain("t_one")
    with taken(shares, "t_one", 3) as granted, taken(shares, "t_two", 3) as others:
        assert granted == [True, False, False]
        assert others == [True] * 3
    monkeypatch.setattr(connection_shares, "STRAINED_SECONDS", 0.0)
    shares.strain("t_one")
    with taken(shares, "t_one", 3) as granted:
        assert granted == [True] * 3


def test_a_request_that_raises_returns_its_slot() -> None:
    shares = ConnectionShares(1, patience=0.01)
    with pytest.raises(ValueError, match="broken"), shares.slot("t_one", lambda: None):
        raise ValueError("broken")
    assert not shares._shares


def test_large_requests_of_a_tenant_come_one_after_the_other() -> None:
    shares = ConnectionShares(4, patience=0.01, large_patience=30)
    running: list[int] = []
    most: list[int] = []

    def work() -> None:
        with shares.slot("t_one", lambda: None, is_large=True) as has_slot:
            assert has_slot
            running.append(1)
            most.append(len(running))
            with taken(shares, "t_one", 2) as granted, taken(shares, "t_two", 1) as others:
                assert granted + others == [True] * 3, "small ones pass"
            with shares.slot("t_two", lambda: None, is_large=True) as others_has_slot:
                assert others_has_slot, "large ones of another tenant pass"
            running.pop()

    run_at_once([work] * 6)
    assert most == [1] * 6
    assert not shares._shares
