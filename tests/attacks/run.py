"""Playing attacks one after the other, with their controls. One that fails or hangs does not stop the others."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.bounds import most_seconds

from .arena import Arena, Grounds
from .attack import Attack, Measurement

_PLAY_SECONDS = 400.0
_CLOSING_SECONDS = 60.0


@dataclass(slots=True)
class AttackResult:
    """Both plays of an attack; without a measurement where it could not be played, with the `failures`."""

    attack: Attack
    braked: Measurement | None = None
    control: Measurement | None = None
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether all bounds hold with the brakes, and one does not without."""
        return not self.failures and self.is_met and self.is_control_red

    @property
    def is_met(self) -> bool:
        """Whether all bounds hold with all brakes."""
        return self.braked is not None and self.braked.is_met

    @property
    def is_control_red(self) -> bool:
        """Whether a bound does not hold without the brake."""
        return self.control is not None and not self.control.is_met

    def as_json(self) -> dict[str, Any]:
        """Return both plays as they are printed."""
        return {
            "attack": self.attack.name,
            "kind": self.attack.kind,
            "title": self.attack.title,
            "brake": self.attack.brake,
            "braked": _json(self.braked),
            "without_brake": _json(self.control),
            "bounds_met": self.is_met,
            "control_red": self.is_control_red,
            "passed": self.passed,
            "failures": self.failures,
            "seconds": round(self.seconds, 1),
        }


def play(grounds: Grounds, attack: Attack) -> AttackResult:
    """Play the attack with all brakes, then without its own."""
    result = play_braked(grounds, attack)
    play_control(grounds, result)
    return result


def play_braked(grounds: Grounds, attack: Attack) -> AttackResult:
    """Play the attack with all brakes."""
    began, result = time.monotonic(), AttackResult(attack)
    result.braked = _play_once(grounds, attack, result.failures, without_brake=False)
    result.seconds = time.monotonic() - began
    return result


def play_control(grounds: Grounds, result: AttackResult) -> None:
    """Add to the result the play without the attack's brake."""
    began = time.monotonic()
    result.control = _play_once(grounds, result.attack, result.failures, without_brake=True)
    result.seconds += time.monotonic() - began


def play_all(grounds: Grounds, attacks: Sequence[Attack], say: Callable[[str], None]) -> list[AttackResult]:
    """Play the attacks, and say each result when it is known."""
    results = []
    for attack in attacks:
        result = play(grounds, attack)
        say(describe(result))
        results.append(result)
    return results


def describe(result: AttackResult) -> str:
    """Return the result in a few lines."""
    state = "passed" if result.passed else "FAILED"
    lines = [f"{result.attack.name}: {state} ({result.seconds:.0f} s)", *(f"  {text}" for text in result.failures)]
    for name, measurement in (("with brakes", result.braked), (f"without {result.attack.brake}", result.control)):
        if measurement is not None:
            bounds = ", ".join(f"{b.name} {b.value:g} (at most {b.at_most:g})" for b in measurement.bounds)
            lines.append(f"  {name}: {'met' if measurement.is_met else 'not met'}: {bounds}")
            lines.append(f"    {measurement.figures}")
    return "\n".join(lines)


def _play_once(grounds: Grounds, attack: Attack, failures: list[str], *, without_brake: bool) -> Measurement | None:
    name = "control" if without_brake else "play"
    arena: Arena | None = None
    try:
        with most_seconds(_PLAY_SECONDS):
            arena = Arena(grounds, attack, without_brake=without_brake)
            return attack.play(arena)
    except Exception as error:  # noqa: BLE001 - an attack that breaks must not end the others
        failures.append(f"{name}: {type(error).__name__}: {error}")
        return None
    finally:
        if arena is not None:
            _close(arena, failures, name)


def _close(arena: Arena, failures: list[str], name: str) -> None:
    try:
        with most_seconds(_CLOSING_SECONDS):
            arena.close()
    except Exception as error:  # noqa: BLE001 - the others are to be played all the same
        failures.append(f"{name}: closing: {type(error).__name__}: {error}")


def _json(measurement: Measurement | None) -> dict[str, Any] | None:
    if measurement is None:
        return None
    bounds = [
        {"name": bound.name, "value": bound.value, "at_most": bound.at_most, "met": bound.is_met}
        for bound in measurement.bounds
    ]
    return {"figures": measurement.figures, "bounds": bounds, "met": measurement.is_met}
