"""The short form of `make attacks`: attacks are bounded, and each bound needs its brake."""

from pathlib import Path
from typing import Any

import pytest

from management.embedded.stack import EmbeddedStack
from tests.attacks import run
from tests.attacks.arena import Grounds
from tests.attacks.attack import ATTACKS, BRAKES, Attack, Measurement, load_rows

load_rows()


@pytest.fixture
def grounds(live_db: None, stack: EmbeddedStack, tenant_a: Any, tenant_b: Any, tmp_path: Path) -> Grounds:
    return Grounds(stack, tenant_a, tenant_b, tmp_path, scale=0.25, seconds=2.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [each.name for each in ATTACKS.values() if each.short])
def test_an_attack_is_bounded_by_its_brake(grounds: Grounds, name: str) -> None:
    result = run.play(grounds, ATTACKS[name])
    assert result.passed, run.describe(result)


def test_every_attack_names_a_brake_and_every_brake_is_needed() -> None:
    assert {each.brake for each in ATTACKS.values()} == BRAKES.keys()


def test_a_control_that_meets_the_bounds_fails(grounds: Grounds) -> None:
    def harmless(_arena: Any) -> Measurement:
        measurement = Measurement()
        measurement.bound("nothing", 0, 1)
        return measurement

    result = run.play(grounds, Attack("harmless", "none", "nothing happens", harmless, "none", short=False))
    assert result.is_met
    assert not result.is_control_red
    assert not result.passed


def test_a_play_without_bounds_shows_nothing() -> None:
    assert not Measurement({"figure": 1.0}).is_met


def test_an_attack_that_breaks_is_a_failure_and_ends_its_processes(grounds: Grounds) -> None:
    started = []

    def broken(arena: Any) -> Measurement:
        started.append(arena.start("manage.py", "version"))
        raise ValueError("no way in")

    result = run.play(grounds, Attack("broken", "none", "it breaks", broken, next(iter(BRAKES)), short=False))
    assert [text for text in result.failures if "no way in" in text] == result.failures
    assert len(result.failures) == 2
    assert not any(process.is_running for process in started)
