"""Lengths of time as people read them, and a sentence for every cause."""

from datetime import UTC, datetime

import pytest

from devices.models import StatusChange
from devices.models.presence import Cause
from devices.services.presence import descriptions

T0 = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (-5, "0 s"),
        (0.6, "1 s"),
        (59, "59 s"),
        (60, "1 min"),
        (90, "1 min 30 s"),
        (3600, "1 h"),
        (3601, "1 h"),
        (12_000, "3 h 20 min"),
        (86_400, "1 d"),
        (90_000, "1 d 1 h"),
        (86_400 * 400, "400 d"),
    ],
)
def test_a_length_is_in_its_two_largest_units(seconds: float, expected: str) -> None:
    assert descriptions.format_duration(seconds) == expected


@pytest.mark.parametrize("cause", Cause.values)
def test_every_cause_has_a_sentence_with_its_time(cause: str) -> None:
    change = StatusChange(
        from_status="ONLINE", to_status="OFFLINE", cause=cause, session="c0ffee", evidence_at=T0, at=T0
    )
    sentence = descriptions.describe_change(change)
    assert "2026-11-22 09:30:00 UTC" in sentence
    assert sentence.endswith(" Session c0ffee.")
    assert "%" not in sentence
