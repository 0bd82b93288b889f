"""The offset of Redis' clock: it moves only as far as a request proves it wrong."""

from datetime import timedelta

import pytest

from devices.services.presence.redis_time import ClockOffset


@pytest.mark.parametrize(
    ("ranges", "ahead"),
    [
        ([], 0),
        ([(-5, 5)], 0),
        ([(2, 4)], 2),
        ([(2, 4), (-30, 30), (1, 3)], 2),
        ([(2, 4), (3, 5)], 3),
        ([(-4, -2)], -2),
        ([(3600, 3601), (-1, 1)], 1),
    ],
)
def test_the_offset_stays_unless_a_request_proves_it_wrong(ranges: list[tuple[int, int]], ahead: int) -> None:
    clock = ClockOffset()
    for least, most in ranges:
        clock.observe(timedelta(milliseconds=least), timedelta(milliseconds=most))
    assert clock.ahead == timedelta(milliseconds=ahead)
