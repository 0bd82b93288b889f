"""Passwords are hashed few at a time in a process, and without a database connection."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth.hashers import (
    Argon2PasswordHasher,
    PBKDF2PasswordHasher,
    check_password,
    identify_hasher,
    make_password,
)
from django.db import connection, transaction

from tenants.infrastructure import password_hashing
from tenants.infrastructure.password_hashing import HASHES_AT_ONCE, HashingBusy, HashSlots


@pytest.fixture
def gauge(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many hashes ran at once, and at most; each lasts until two run."""
    seen = {"now": 0, "most": 0, "all": 0}
    lock, both = threading.Lock(), threading.Event()

    def slow(plain: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with lock:
                seen["now"] += 1
                seen["all"] += 1
                seen["most"] = max(seen["most"], seen["now"])
                if seen["now"] == HASHES_AT_ONCE:
                    both.set()
            both.wait(60)
            try:
                return plain(*args, **kwargs)
            finally:
                with lock:
                    seen["now"] -= 1

        return run

    for hasher, name in (
        (Argon2PasswordHasher, "encode"),
        (Argon2PasswordHasher, "verify"),
        (PBKDF2PasswordHasher, "encode"),
    ):
        monkeypatch.setattr(hasher, name, slow(getattr(hasher, name)))
    monkeypatch.setattr(password_hashing, "slots", HashSlots(HASHES_AT_ONCE, 100, 60))
    return seen


def test_many_passwords_are_hashed_two_at_a_time(gauge: dict[str, int]) -> None:
    def check(number: int) -> bool:
        return check_password("right", make_password("right", hasher=("argon2", "pbkdf2_sha256")[number % 2]))

    with ThreadPoolExecutor(12) as threads:
        assert all(threads.map(check, range(12)))
    assert gauge["most"] == HASHES_AT_ONCE
    assert gauge["all"] >= 24


def test_a_hash_that_finds_no_slot_in_time_is_not_computed() -> None:
    slots = HashSlots(1, max_waiting=5, wait_seconds=0.01)
    with slots.slot(), pytest.raises(HashingBusy), slots.slot():
        raise AssertionError("a second slot")
    with slots.slot():
        pass


def test_a_queue_that_is_full_rejects_at_once() -> None:
    slots = HashSlots(1, max_waiting=0, wait_seconds=600)
    with slots.slot(), pytest.raises(HashingBusy), slots.slot():
        raise AssertionError("a second slot")


def test_new_hashes_are_argon2() -> None:
    assert identify_hasher(make_password("secret")).algorithm == "argon2"


@pytest.fixture
def pooled(live_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Django's connection with a pool, as in the web process."""
    connection.close()
    monkeypatch.setitem(connection.settings_dict, "CONN_MAX_AGE", 0)
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "pool", {"min_size": 1, "max_size": 1})
    connection.ensure_connection()
    yield connection
    connection.close()
    connection.close_pool()  # type: ignore[attr-defined]  # of PostgreSQL's backend


def test_no_pooled_connection_is_held_while_hashing(pooled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[Any] = []
    plain = Argon2PasswordHasher.encode

    def encode(*args: Any) -> str:
        held.append(pooled.connection)
        return plain(*args)

    monkeypatch.setattr(Argon2PasswordHasher, "encode", encode)
    make_password("secret")
    assert held == [None]
    with transaction.atomic():
        make_password("secret")  # a transaction keeps its connection
        assert pooled.connection is not None
    assert held[1] is not None
