"""Logins that wait: bounded in number and time, judged together, never let in by a fault. And who tries passwords."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from django.db import OperationalError

from devices.services.broker.auth_batcher import LoginDesk
from devices.services.broker.auth_throttle import LoginGuard
from devices.services.broker.authentication import DENIED, Login, LoginsUnavailable, Verdict


def login(name: str = "a", shown: str = "p", address: str = "192.0.2.1") -> Login:
    return Login(name, name, shown, address)


class Judge:
    """Lets in everybody whose password is `p`, as soon as it may."""

    def __init__(self) -> None:
        self.may, self.batches = threading.Event(), list[list[str]]()

    def __call__(self, logins: Sequence[Login]) -> list[Verdict | LoginsUnavailable]:
        self.batches.append([each.name for each in logins])
        assert self.may.wait(10)
        return [Verdict(each.password == "p") for each in logins]


def run(desk: LoginDesk, scenario: Any) -> Any:
    async def whole() -> Any:
        desk.start()
        try:
            return await scenario()
        finally:
            desk.stop()

    return asyncio.run(whole())


async def outcome(desk: LoginDesk, asked: Login) -> bool | str:
    try:
        return (await desk.ask(asked)).allowed
    except LoginsUnavailable as error:
        return str(error)


def test_what_waits_is_judged_together_and_everybody_gets_the_own_verdict() -> None:
    judge = Judge()
    desk = LoginDesk(judge, batch=4)

    async def scenario() -> list[bool | str]:
        first = asyncio.create_task(outcome(desk, login("first")))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(outcome(desk, login(str(n), "p" if n % 2 else "x"))) for n in range(6)]
        await asyncio.sleep(0.05)
        judge.may.set()
        return [await task for task in (first, *others)]

    assert run(desk, scenario) == [True, False, True, False, True, False, True]
    assert judge.batches == [["first"], ["0", "1", "2", "3"], ["4", "5"]]


def test_a_full_queue_is_said_at_once_and_recovers() -> None:
    judge = Judge()
    desk = LoginDesk(judge, most_waiting=3, batch=10, patience=5)

    async def scenario() -> None:
        waiting = [asyncio.create_task(outcome(desk, login("0")))]
        await asyncio.sleep(0.05)
        waiting += [asyncio.create_task(outcome(desk, login(str(n)))) for n in (1, 2, 3)]
        await asyncio.sleep(0.05)
        assert await outcome(desk, login("too many")) == "3 logins are waiting already."
        assert not any(task.done() for task in waiting)
        judge.may.set()
        assert [await task for task in waiting] == [True] * 4
        assert await outcome(desk, login("later")) is True

    run(desk, scenario)
    assert "too many" not in [name for batch in judge.batches for name in batch]


def test_who_has_given_up_is_not_judged_any_more() -> None:
    judge = Judge()
    desk = LoginDesk(judge, patience=0.1)

    async def scenario() -> None:
        assert "No verdict" in str(await outcome(desk, login("stuck")))
        assert "No verdict" in str(await outcome(desk, login("gave up")))
        judge.may.set()
        await asyncio.sleep(0.05)
        assert await outcome(desk, login("next")) is True

    run(desk, scenario)
    assert judge.batches == [["stuck"], ["next"]]


def test_a_fault_lets_nobody_in_and_does_not_end_the_desk(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Any] = [
        ValueError("a fault"),
        OperationalError("gone"),
        OperationalError("still gone"),
        [Verdict(True)],
    ]

    def judge(logins: Sequence[Login]) -> list[Verdict | LoginsUnavailable]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    desk = LoginDesk(judge)

    async def scenario() -> list[bool | str]:
        return [await outcome(desk, login()) for _ in range(3)]

    assert run(desk, scenario) == ["A fault of the platform's own.", "still gone", True]
    assert "a fault" in caplog.text


# --- Who tries passwords ------------------------------------------------------------------------------------


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_address_is_refused_unseen_for_the_rest_of_its_minute() -> None:
    clock = Clock()
    guard = LoginGuard(3, clock)
    told = []
    for number in range(3):
        assert not guard.refuses(login("victim", f"guess {number}"))
        clock.now += 10
        told.append(guard.note(login("victim", f"guess {number}"), False))
    assert told == [False, False, True]
    assert guard.refuses(login("victim", "guess 4"))
    assert guard.refuses(login("stranger"))
    assert not guard.refuses(login("stranger", address="192.0.2.2"))
    clock.now += 60
    assert not guard.refuses(login("stranger"))
    assert not guard.note(login("victim", "guess 5"), False)


def test_who_was_let_in_is_asked_about_until_it_is_refused() -> None:
    guard = LoginGuard(2, Clock())
    guard.note(login("known"), True)
    for number in range(2):
        guard.note(login("known", f"guess {number}"), False)
    assert guard.refuses(login("known", "guess"))
    assert not guard.refuses(login("known"))
    guard.note(login("known"), False)  # switched off meanwhile
    assert guard.refuses(login("known"))


def test_the_limit_can_be_switched_off() -> None:
    guard = LoginGuard(0, Clock())
    assert not any(guard.note(login("a", str(number)), False) for number in range(200))
    assert not guard.refuses(login("b"))


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from devices.services.broker import auth_throttle

    monkeypatch.setattr(auth_throttle, "_MOST_ADDRESSES", 5)
    monkeypatch.setattr(auth_throttle, "_MOST_KNOWN", 5)
    guard = LoginGuard(1, Clock())
    for number in range(20):
        guard.note(login(str(number)), True)
        guard.note(login("x", "wrong", f"192.0.2.{number}"), False)
    assert (len(guard._known), len(guard._failures)) == (5, 5)
    assert guard.refuses(login("x", address="192.0.2.19"))
    assert not guard.refuses(login("19", address="192.0.2.19"))


def test_a_password_is_in_no_text() -> None:
    assert "secret" not in repr(login(shown="secret"))
    assert "secret" not in str(LoginGuard(1).__dict__) + repr(DENIED)
