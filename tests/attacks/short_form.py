"""The short form of `make attacks`: the attacks of some kinds that the suite plays, a file of tests for each."""

from tests.attacks import run
from tests.attacks.arena import Grounds
from tests.attacks.attack import ATTACKS, load_rows

load_rows()
# Other tests delay the neighbour too. The control's delay must then be more than this many times the braked one.
_WORSE_WITHOUT = 2
_MOST_TIMES = 2


def names(*kinds: str) -> list[str]:
    """Return the attacks of the kinds that the suite plays."""
    return [each.name for each in ATTACKS.values() if each.short and each.kind in kinds]


def assert_bounded(grounds: Grounds, name: str) -> None:
    """Play the attack with all brakes and without its own. Raises AssertionError unless both end as they must.

    What the other workers do delays the neighbour too, in quiet or under attack: a play that is not passed is repeated,
    and passes also where nothing is lost and the control is clearly worse.
    """
    for _ in range(_MOST_TIMES):
        result = run.play(grounds, ATTACKS[name])
        if result.passed or is_clearly_worse_without(result):
            return
    raise AssertionError(run.describe(result))


def is_clearly_worse_without(result: run.AttackResult) -> bool:
    """Return whether what must not happen did not with brakes, and a figure is much worse without the attack's own."""
    if result.failures or result.braked is None or result.control is None:
        return False
    forbidden = [bound for bound in result.braked.bounds if bound.at_most == 0]
    pairs = zip(result.braked.bounds, result.control.bounds, strict=True)
    return all(bound.is_met for bound in forbidden) and any(
        control.value > _WORSE_WITHOUT * max(braked.value, 0.01) for braked, control in pairs if braked.at_most > 0
    )
