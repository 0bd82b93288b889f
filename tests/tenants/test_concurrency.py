"""Leases of expensive operations: counted over processes, ended by their owner or by time, and without Redis too."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django_redis import get_redis_connection

from management.embedded.stack import EmbeddedStack
from tenants.infrastructure import concurrency
from tenants.infrastructure.concurrency import Lease, LimitReached, Operation, Scope, Share
from tests.processes import run_at_once, wait_until
from tests.redis_recovery import wait_for_redis

EXPORT = Operation.EXPORT


@pytest.fixture(autouse=True)
def leases() -> Iterator[list[Lease]]:
    kept: list[Lease] = []
    yield kept
    for lease in kept:
        lease.release()
    redis = get_redis_connection("default")
    for name in redis.scan_iter("gwanje:concurrency:*"):
        redis.delete(name)
    concurrency._local._ends.clear()


def tenant(limit: int, owner: str = "t_a") -> Share:
    return Share(Scope.TENANT, owner, limit)


def forget_this_process() -> None:
    """As another process: only Redis knows the leases."""
    concurrency._local._ends.clear()


@pytest.fixture
def acquire(leases: list[Lease]) -> Callable[..., Lease]:
    """As `concurrency.acquire`; the leases are referenced until the test ends."""

    def make(*arguments: Any, **options: Any) -> Lease:
        leases.append(concurrency.acquire(*arguments, **options))
        return leases[-1]

    return make


def test_a_share_has_room_for_so_many(acquire: Callable[..., Lease]) -> None:
    leases = [acquire(EXPORT, [tenant(2)]) for _ in range(2)]
    with pytest.raises(LimitReached) as refused:
        acquire(EXPORT, [tenant(2)], retry_seconds=7)
    assert (refused.value.share, refused.value.retry_seconds) == (tenant(2), 7)
    acquire(EXPORT, [tenant(2, "t_b")])
    acquire(Operation.EVENT_STREAM, [tenant(2)])
    leases[0].release()
    leases[0].release()
    acquire(EXPORT, [tenant(2)])
    with pytest.raises(LimitReached):
        acquire(EXPORT, [tenant(2)])


def test_processes_count_together(acquire: Callable[..., Lease]) -> None:
    first = acquire(EXPORT, [tenant(1)])
    forget_this_process()
    with pytest.raises(LimitReached):
        acquire(EXPORT, [tenant(1)])
    first.release()
    acquire(EXPORT, [tenant(1)])


def test_what_is_refused_by_one_share_counts_for_none(acquire: Callable[..., Lease]) -> None:
    own = Share(Scope.KEY, "t_a:1", 1)
    acquire(EXPORT, [own, tenant(5)])
    for _ in range(5):
        with pytest.raises(LimitReached):
            acquire(EXPORT, [own, tenant(5)])
    for number in range(2, 6):
        acquire(EXPORT, [Share(Scope.KEY, f"t_a:{number}", 1), tenant(5)])
    with pytest.raises(LimitReached) as refused:
        acquire(EXPORT, [Share(Scope.KEY, "t_a:9", 1), tenant(5)])
    assert refused.value.share.scope == Scope.TENANT


def test_zero_is_unlimited(acquire: Callable[..., Lease]) -> None:
    for _ in range(50):
        acquire(EXPORT, [tenant(0)])
    assert not list(get_redis_connection("default").scan_iter("gwanje:concurrency:*"))


def test_a_lease_of_a_dead_process_ends_by_itself(
    acquire: Callable[..., Lease], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(concurrency, "LEASE_SECONDS", 0.05)
        acquire(EXPORT, [tenant(1)])
    forget_this_process()
    redis = get_redis_connection("default")
    redis.persist("gwanje:concurrency:export:tenant:t_a")
    time.sleep(0.06)
    acquire(EXPORT, [tenant(1)])


def test_a_lease_of_this_process_ends_by_itself(acquire: Callable[..., Lease], monkeypatch: pytest.MonkeyPatch) -> None:
    moment = 1000.0
    monkeypatch.setattr(concurrency, "clock", lambda: moment)
    server = Share(Scope.PROCESS, "web", 1)
    acquire(EXPORT, [server])
    with pytest.raises(LimitReached):
        acquire(EXPORT, [server])
    moment += 21
    acquire(EXPORT, [server])


def test_a_renewed_lease_goes_on_after_redis_was_emptied(acquire: Callable[..., Lease]) -> None:
    first = acquire(EXPORT, [tenant(1)])
    get_redis_connection("default").delete("gwanje:concurrency:export:tenant:t_a")
    first.renew()
    forget_this_process()
    with pytest.raises(LimitReached):
        acquire(EXPORT, [tenant(1)])


def test_many_at_once_never_exceed_the_limit(acquire: Callable[..., Lease]) -> None:
    def attempt() -> bool:
        try:
            acquire(EXPORT, [tenant(5)])
        except LimitReached:
            return False
        return True

    assert sum(run_at_once([attempt] * 20)) == 5
    assert get_redis_connection("default").zcard("gwanje:concurrency:export:tenant:t_a") == 5


@pytest.mark.slow
def test_without_redis_this_process_counts_alone(acquire: Callable[..., Lease], stack: EmbeddedStack) -> None:
    stack.stop_server("valkey")
    try:
        first = acquire(EXPORT, [tenant(1)])
        with pytest.raises(LimitReached):
            acquire(EXPORT, [tenant(1)])
        first.renew()
        first.release()
        acquire(EXPORT, [tenant(1)])
    finally:
        stack.start_server("valkey")
        wait_for_redis()


def test_nothing_is_kept_of_released_leases(acquire: Callable[..., Lease]) -> None:
    for number in range(100):
        acquire(EXPORT, [tenant(1, f"t_{number}")]).release()
    assert len(concurrency._local) == 0
    assert not list(get_redis_connection("default").scan_iter("gwanje:concurrency:*"))


def test_leases_are_renewed_while_they_are_referenced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "RENEWAL_SECONDS", 0.02)
    monkeypatch.setattr(concurrency, "_renewer", concurrency._Renewer())
    redis, name = get_redis_connection("default"), "gwanje:concurrency:export:tenant:t_a"
    lease = concurrency.acquire(EXPORT, [tenant(1)])
    for _ in range(2):
        redis.delete(name)
        wait_until(lambda: redis.zcard(name) == 1)
    del lease
    wait_until(lambda: concurrency._renewer._thread is None)
    assert not redis.exists(name)


def test_a_released_lease_is_not_renewed() -> None:
    lease = concurrency.acquire(EXPORT, [tenant(1)])
    lease.release()
    lease.renew()
    assert not list(get_redis_connection("default").scan_iter("gwanje:concurrency:*"))
    assert len(concurrency._local) == 0


def test_a_lease_that_nothing_references_gives_its_place_back() -> None:
    """Such as one of a response that was never sent."""
    for _ in range(5):
        concurrency.acquire(EXPORT, [tenant(1)])
    concurrency.acquire(EXPORT, [tenant(1, "t_b")])
    assert not get_redis_connection("default").exists("gwanje:concurrency:export:tenant:t_a")
