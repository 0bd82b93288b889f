"""The rates of refused messages: who is braked, by how much, and who is not."""

import pytest

from telemetry.services.limits import refusals
from telemetry.services.limits.refusals import UNREGISTERED, Publisher, RefusalLimiter
from tenants.services.limits import LimitName

BAD, GOOD, OTHER = Publisher("t_a", 1, 11), Publisher("t_a", 2, 12), Publisher("t_b", 3, 11)
LIMITS = {"device_refusal_rate": 20.0, "tenant_refusal_rate": 200.0}


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(refusals, "time", made)
    return made


@pytest.fixture
def limiter(clock: Clock) -> RefusalLimiter:
    return RefusalLimiter(LIMITS)


def offer(limiter: RefusalLimiter, publisher: Publisher, count: int, *, valid: bool = False) -> int:
    """Offer messages one after the other; return how many are validated."""
    validated = 0
    for _ in range(count):
        if limiter.exceeded(publisher) is None:
            validated += 1
            if valid:
                limiter.refund(publisher)
            else:
                limiter.charge(publisher)
    return validated


def test_a_device_with_refused_messages_is_braked_after_its_burst(limiter: RefusalLimiter) -> None:
    assert 200 <= offer(limiter, BAD, 10_000) <= 202
    assert limiter.is_braking
    assert limiter.exceeded(BAD) == (LimitName.DEVICE_REFUSAL_RATE, 11)


def test_a_braked_device_keeps_its_rate(limiter: RefusalLimiter, clock: Clock) -> None:
    offer(limiter, BAD, 10_000)
    validated = 0
    for _ in range(1000):
        clock.now += 0.01
        validated += offer(limiter, BAD, 100)
    assert 195 <= validated <= 205, "20 a second for ten seconds"


def test_valid_messages_are_never_braked_however_many_they_are(limiter: RefusalLimiter) -> None:
    assert offer(limiter, GOOD, 100_000, valid=True) == 100_000


def test_only_devices_with_refusals_are_braked_with_their_tenant(limiter: RefusalLimiter) -> None:
    devices = [Publisher("t_a", number, number) for number in range(100, 150)]
    for device in devices:
        offer(limiter, device, 100)
    assert limiter.exceeded(devices[0]) == (LimitName.TENANT_REFUSAL_RATE, None)
    assert offer(limiter, GOOD, 1000, valid=True) == 1000
    assert offer(limiter, OTHER, 150) == 150, "another tenant has a bucket of its own"


def test_a_mended_device_is_released(limiter: RefusalLimiter, clock: Clock) -> None:
    offer(limiter, BAD, 10_000)
    for _ in range(80):
        clock.now += 0.1
        offer(limiter, BAD, 10, valid=True)
    assert offer(limiter, BAD, 1000, valid=True) == 1000
    limiter.drop_idle()
    assert not limiter.is_braking


def test_messages_in_flight_do_not_deepen_the_debt(limiter: RefusalLimiter, clock: Clock) -> None:
    for _ in range(5000):  # read before the first was validated
        limiter.charge(BAD)
    clock.now += 0.11
    assert offer(limiter, BAD, 10) >= 1


def test_unregistered_publishers_share_one_bucket(limiter: RefusalLimiter) -> None:
    assert 400 <= offer(limiter, UNREGISTERED, 10_000) <= 402, "two seconds of their rate"
    assert offer(limiter, GOOD, 100) == 100


def test_a_device_over_its_own_rate_may_exceed_it_once_more(limiter: RefusalLimiter, clock: Clock) -> None:
    def excess(per_second: int) -> int:
        """How many of a minute's messages over a rate of 100/s are validated."""
        validated = 0
        for _ in range(60):
            clock.now += 1.0
            for _ in range(per_second):
                if limiter.exceeded(BAD) is None:
                    validated += 1
                    limiter.charge(BAD, LimitName.DEVICE_RATE, 100.0, is_own=True)
        return validated

    assert excess(150) == 60 * 150
    clock.now += 100
    assert excess(1000) < 60 * 300
    assert limiter.exceeded(BAD) in {(LimitName.DEVICE_RATE, 11), None}


def test_idle_publishers_are_forgotten(limiter: RefusalLimiter, clock: Clock) -> None:
    for number in range(1000):
        limiter.charge(Publisher("t_a", number, number))
    clock.now += 60
    limiter.drop_idle()
    assert (len(limiter._devices), len(limiter._tenants)) == (0, 0)


def test_a_rate_of_zero_brakes_nobody(clock: Clock) -> None:
    limiter = RefusalLimiter({})
    assert offer(limiter, BAD, 10_000) == 10_000
    assert not limiter.is_braking


def test_newly_braked_publishers_are_named_once(limiter: RefusalLimiter) -> None:
    offer(limiter, BAD, 1000)
    assert limiter.take_newly_braked() == [BAD]
    offer(limiter, UNREGISTERED, 10_000)
    assert limiter.take_newly_braked() == [UNREGISTERED]
    assert limiter.take_newly_braked() == []
