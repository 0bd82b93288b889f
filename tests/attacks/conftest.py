"""Fixtures of the attacks in the suite, on its servers and tenants."""

from pathlib import Path
from typing import Any

import pytest

from management.embedded.stack import EmbeddedStack
from tests.attacks.arena import Grounds


@pytest.fixture
def grounds(live_db: None, stack: EmbeddedStack, tenant_a: Any, tenant_b: Any, tmp_path: Path) -> Grounds:
    return Grounds(stack, tenant_a, tenant_b, tmp_path, scale=0.25, seconds=2.0)
