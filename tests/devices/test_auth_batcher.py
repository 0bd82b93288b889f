"""Logins that wait: bounded in number and time, authenticated together, never let in by a fault.

And who tries passwords.
"""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from django.db import OperationalError

from devices.services.broker.auth_batcher import AuthBatcher
from devices.services.broker.auth_throttle import AuthThrottle
from devices.services.broker.authentication import DENIED, AuthResult, AuthUnavailable, LoginAttempt


def login(name: str = "a", shown: str = "p", address: str = "192.0.2.1") -> LoginAttempt:
    return LoginAttempt(name, name, shown, address)


class Authenticator:
    """Accepts every client with the password `p`, once `may` is set."""

    def __init__(self) -> None:
        self.may, self.batches = threading.Event(), list[list[str]]()

    def __call__(self, logins: Sequence[LoginAttempt]) -> list[AuthResult | AuthUnavailable]:
        self.batches.append([each.name for each in logins])
        assert self.may.wait(60)
        return [AuthResult(each.password == "p") for each in logins]


def run(batcher: AuthBatcher, scenario: Any) -> Any:
    async def whole() -> Any:
        batcher.start()
        try:
            return await scenario()
        finally:
            batcher.stop()

    return asyncio.run(whole())


async def outcome(batcher: AuthBatcher, asked: LoginAttempt) -> bool | str:
    try:
        return (await batcher.authenticate(asked)).allowed
    except AuthUnavailable as error:
        return str(error)


def test_what_waits_is_judged_together_and_everybody_gets_the_own_verdict() -> None:
    authenticate = Authenticator()
    batcher = AuthBatcher(authenticate, batch=4)

    async def scenario() -> list[bool | str]:
        first = asyncio.create_task(outcome(batcher, login("first")))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(outcome(batcher, login(str(n), "p" if n % 2 else "x"))) for n in range(6)]
        await asyncio.sleep(0.05)
        authenticate.may.set()
        return [await task for task in (first, *others)]

    assert run(batcher, scenario) == [True, False, True, False, True, False, True]
    assert authenticate.batches == [["first"], ["0", "1", "2", "3"], ["4", "5"]]


def test_a_full_queue_is_said_at_once_and_recovers() -> None:
    authenticate = Authenticator()
    batcher = AuthBatcher(authenticate, max_waiting=3, batch=10, timeout=5)

    async def scenario() -> None:
        waiting = [asyncio.create_task(outcome(batcher, login("0")))]
        await asyncio.sleep(0.05)
        waiting += [asyncio.create_task(outcome(batcher, login(str(n)))) for n in (1, 2, 3)]
        await asyncio.sleep(0.05)
        assert await outcome(batcher, login("too many")) == "3 logins are already waiting."
        assert not any(task.done() for task in waiting)
        authenticate.may.set()
        assert [await task for task in waiting] == [True] * 4
        assert await outcome(batcher, login("later")) is True

    run(batcher, scenario)
    assert "too many" not in [name for batch in authenticate.batches for name in batch]


def test_who_has_given_up_is_not_judged_any_more() -> None:
    authenticate = Authenticator()
    batcher = AuthBatcher(authenticate, timeout=0.1)

    async def scenario() -> None:
        assert "No result" in str(await outcome(batcher, login("stuck")))
        assert "No result" in str(await outcome(batcher, login("gave up")))
        authenticate.may.set()
        await asyncio.sleep(0.05)
        assert await outcome(batcher, login("next")) is True

    run(batcher, scenario)
    assert authenticate.batches == [["stuck"], ["next"]]


def test_a_fault_lets_nobody_in_and_does_not_end_the_desk(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Any] = [
        ValueError("a fault"),
        OperationalError("gone"),
        OperationalError("still gone"),
        [AuthResult(True)],
    ]

    def authenticate(logins: Sequence[LoginAttempt]) -> list[AuthResult | AuthUnavailable]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    batcher = AuthBatcher(authenticate)

    async def scenario() -> list[bool | str]:
        return [await outcome(batcher, login()) for _ in range(3)]

    assert run(batcher, scenario) == ["An internal error.", "still gone", True]
    assert "a fault" in caplog.text


# --- Who tries passwords ------------------------------------------------------------------------------------


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_address_is_refused_unseen_for_the_rest_of_its_minute() -> None:
    clock = Clock()
    throttle = AuthThrottle(3, clock)
    results = []
    for number in range(3):
        assert not throttle.blocks(login("victim", f"guess {number}"))
        clock.now += 10
        results.append(throttle.record(login("victim", f"guess {number}"), False))
    assert results == [False, False, True]
    assert throttle.blocks(login("victim", "guess 4"))
    assert throttle.blocks(login("stranger"))
    assert not throttle.blocks(login("stranger", address="192.0.2.2"))
    clock.now += 60
    assert not throttle.blocks(login("stranger"))
    assert not throttle.record(login("victim", "guess 5"), False)


def test_who_was_let_in_is_asked_about_until_it_is_refused() -> None:
    throttle = AuthThrottle(2, Clock())
    throttle.record(login("known"), True)
    for number in range(2):
        throttle.record(login("known", f"guess {number}"), False)
    assert throttle.blocks(login("known", "guess"))
    assert not throttle.blocks(login("known"))
    throttle.record(login("known"), False)  # switched off meanwhile
    assert throttle.blocks(login("known"))


def test_the_limit_can_be_switched_off() -> None:
    throttle = AuthThrottle(0, Clock())
    assert not any(throttle.record(login("a", str(number)), False) for number in range(200))
    assert not throttle.blocks(login("b"))


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from devices.services.broker import auth_throttle

    monkeypatch.setattr(auth_throttle, "_MAX_ADDRESSES", 5)
    monkeypatch.setattr(auth_throttle, "_MAX_ADMITTED", 5)
    throttle = AuthThrottle(1, Clock())
    for number in range(20):
        throttle.record(login(str(number)), True)
        throttle.record(login("x", "wrong", f"192.0.2.{number}"), False)
    assert (len(throttle._admitted), len(throttle._failures)) == (5, 5)
    assert throttle.blocks(login("x", address="192.0.2.19"))
    assert not throttle.blocks(login("19", address="192.0.2.19"))


def test_a_password_is_in_no_text() -> None:
    assert "secret" not in repr(login(shown="secret"))
    assert "secret" not in str(AuthThrottle(1).__dict__) + repr(DENIED)
