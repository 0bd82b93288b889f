"""The rig of the attacks: a control that is not red fails, and each brake is needed by an attack."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.attacks import run, short_form
from tests.attacks.arena import Grounds
from tests.attacks.attack import ATTACKS, BRAKES, Attack, Bound, Measurement, load_rows

load_rows()


def test_each_attack_of_the_short_form_is_played_once() -> None:
    files = (path.stem for path in Path(__file__).parent.glob("test_*_attacks.py"))
    played = [name for file in files for name in import_module(f"tests.attacks.{file}").NAMES]
    assert sorted(played) == sorted(each.name for each in ATTACKS.values() if each.short)


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


@pytest.mark.parametrize(
    ("bounds", "held"),
    [
        ([Bound("p95", 9, 3, timed=True), Bound("lost", 0, 0)], True),
        ([Bound("p95", 1, 3, timed=True), Bound("lost", 1, 0)], False),
        ([Bound("p95", 1, 3, timed=True)], False),  # a delay alone shows nothing
        ([Bound("threads more", 9, 3)], False),
    ],
)
def test_the_suite_requires_every_bound_that_is_not_a_delay(bounds: list[Bound], held: bool) -> None:
    result = run.AttackResult(next(iter(ATTACKS.values())), Measurement(bounds=bounds))
    assert short_form.holds(result) is held
