"""The short form of `make attacks`: the attacks of some kinds that the suite plays, a file of tests for each.

The other workers of the suite delay the neighbour too, in quiet and under attack, so that delays are bounds of
`make attacks` alone. The suite requires all other bounds, and that one of them does not hold in the control.
"""

from tests.attacks import run
from tests.attacks.arena import Grounds
from tests.attacks.attack import ATTACKS, load_rows

load_rows()


def names(*kinds: str) -> list[str]:
    """Return the attacks of the kinds that the suite plays."""
    return [each.name for each in ATTACKS.values() if each.short and each.kind in kinds]


def assert_bounded(grounds: Grounds, name: str) -> None:
    """Play the attack with all brakes and, unless its control differs by a delay alone, without its own.

    Raises AssertionError unless the bounds that are not timed hold in the first, and one does not in the second.
    """
    result = run.play_braked(grounds, ATTACKS[name])
    assert holds(result), run.describe(result)
    if not is_told_by_delay(result):
        run.play_control(grounds, result)
        assert result.passed, run.describe(result)


def holds(result: run.AttackResult) -> bool:
    """Return whether the play with brakes met all bounds that are not timed, at least one."""
    if result.failures or result.braked is None:
        return False
    bounds = [bound for bound in result.braked.bounds if not bound.timed]
    return bool(bounds) and all(bound.is_met for bound in bounds)


def is_told_by_delay(result: run.AttackResult) -> bool:
    """Return whether one of the bounds is a delay, which a control under other work need not exceed."""
    return result.braked is not None and any(bound.timed for bound in result.braked.bounds)
