"""The short form of `make attacks`: the attacks of some kinds that the suite plays, a file of tests for each."""

from tests.attacks import run
from tests.attacks.arena import Grounds
from tests.attacks.attack import ATTACKS, load_rows

load_rows()


def names(*kinds: str) -> list[str]:
    """Return the attacks of the kinds that the suite plays."""
    return [each.name for each in ATTACKS.values() if each.short and each.kind in kinds]


def assert_bounded(grounds: Grounds, name: str) -> None:
    """Play the attack with all brakes and without its own. Raises AssertionError unless both end as they must."""
    result = run.play(grounds, ATTACKS[name])
    assert result.passed, run.describe(result)
