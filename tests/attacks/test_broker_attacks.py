"""Attacks of devices at the broker and on stored evidence, in their short form."""

import pytest

from tests.attacks.arena import Grounds
from tests.attacks.short_form import assert_bounded, names

NAMES = names("broker", "evidence")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_attack_is_bounded_by_its_brake(grounds: Grounds, name: str) -> None:
    assert_bounded(grounds, name)
