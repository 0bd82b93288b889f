"""The loop's own sense of time."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from .test_tenant_writer import ingest

__all__ = ["ingest"]


@pytest.fixture
def listener(ingest: Any, settings: Any) -> Iterator[Any]:
    from telemetry.services.ingest.listener import Listener

    settings.INGEST_BATCH_SECONDS = 0.5
    made = Listener(ingest, client_id="test-timing")
    yield made
    made._session.close(0.0)


def waits_since(listener: Any, seconds: float) -> float:
    """When a batch is due whose only message came so long ago, as the clock has it now."""
    from telemetry.services.pipeline.results import Incoming

    came = datetime.now(UTC) - timedelta(seconds=seconds)
    listener._receive([Incoming("telemetry/alpha/x/y", b"{}", came)])
    due = listener._due_in()
    listener._on_lost()
    return float(due)


def test_a_batch_is_due_so_long_after_its_first_message(listener: Any) -> None:
    assert listener._due_in() == 1.0, "there is nothing"
    assert 0.3 < waits_since(listener, 0.1) <= 0.4
    assert waits_since(listener, 0.6) == 0.0


def test_a_clock_that_was_set_back_holds_up_nothing(listener: Any) -> None:
    assert waits_since(listener, -3600) == 0.0
