"""The short form of `make attacks`: the attacks of some kinds that the suite plays, a file of tests for each."""

from tests.attacks import run
from tests.attacks.arena import Grounds
from tests.attacks.attack import ATTACKS, load_rows

load_rows()
_MOST_TIMES = 3


def names(*kinds: str) -> list[str]:
    """Return the attacks of the kinds that the suite plays."""
    return [each.name for each in ATTACKS.values() if each.short and each.kind in kinds]


def assert_bounded(grounds: Grounds, name: str) -> None:
    """Play the attack with all brakes and without its own. Raises AssertionError unless both end as they must.

    It is repeated where not: what else the machine does can delay the neighbour with brakes, or in the quiet before.
    """
    for _ in range(_MOST_TIMES):
        result = run.play(grounds, ATTACKS[name])
        if result.passed:
            return
    raise AssertionError(run.describe(result))
