"""Fixtures of the attacks in the suite, on its servers and tenants of their own."""

from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from management.embedded.stack import EmbeddedStack
from tests.attacks.arena import Grounds
from tests.factories import make_tenant, remove_tenant


@pytest.fixture(scope="module")
def opponents(django_db_setup: None, django_db_blocker: Any) -> Iterator[tuple[Any, Any]]:
    """An attacking tenant, which uses up its quotas and its quarantine, and a neighbour."""
    with django_db_blocker.unblock():
        made = make_tenant(f"attacker-{token_hex(3)}"), make_tenant(f"neighbour-{token_hex(3)}")
        yield made
        for tenant in made:
            remove_tenant(tenant)


@pytest.fixture
def grounds(live_db: None, stack: EmbeddedStack, opponents: tuple[Any, Any], tmp_path: Path) -> Grounds:
    return Grounds(stack, *opponents, tmp_path, scale=0.25, seconds=2.0)
