"""The listener's work without the broker: `send((topic, payload), …)` is one batch, and gives its result."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest


@pytest.fixture
def ingest(live_db: None) -> Iterator[Any]:
    """The stages as the listener has them, on the run's servers."""
    from telemetry.services.ingest.batch_pipeline import build_pipeline

    made = build_pipeline()
    yield made
    made.writer.close()


@pytest.fixture
def send(ingest: Any) -> Callable[..., Any]:
    """`send((topic, payload), …)`: one batch; its result."""
    from telemetry.services.pipeline.results import Incoming

    def process(*messages: tuple[str, bytes], received_at: datetime | None = None) -> Any:
        return ingest.process([Incoming(t, p, received_at or datetime.now(UTC)) for t, p in messages])

    return process
