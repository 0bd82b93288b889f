"""Two listeners and two tenants whose tables are locked now and then, interleaved and killed at random: every message
is stored once, and none is acknowledged before it is safe.

The broker is played: what a listener has not acknowledged comes again when its connection, or the listener, is new.
"""

import random
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from django.db import connection
from django_tenants.utils import schema_context
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.factories import Registered

from .test_batch_overlap import values
from .test_overflow import locked, retry, since, totals
from .test_tenant_writer import stored

TABLES = ("telemetry_message", "telemetry_reading", "devices_devicestatus")


class Waiting(RuleBasedStateMachine):
    """Each tenant's device is heard by both listeners."""

    register: Any
    tenants: tuple[Any, Any]

    @initialize()
    def begin(self) -> None:
        self.devices: list[Registered] = [type(self).register(tenant=tenant) for tenant in self.tenants]
        self.before = [totals(device) for device in self.devices]
        self.sent = [0, 0]
        self.listeners = [self._listener(), self._listener()]
        # What the broker has sent to each and holds until it is acknowledged.
        self.unacknowledged: list[list[Any]] = [[], []]
        self.locks = [ExitStack(), ExitStack()]
        self.is_locked = [False, False]

    def _listener(self) -> Any:
        from telemetry.services.ingest.batch_pipeline import build_pipeline

        return build_pipeline()

    def _settle(self, listener: int, messages: list[Any]) -> None:
        """The broker forgets what is acknowledged."""
        settled = {id(message) for message in messages}
        left = [message for message in self.unacknowledged[listener] if id(message) not in settled]
        assert len(left) == len(self.unacknowledged[listener]) - len(settled), "acknowledged twice, or never sent"
        self.unacknowledged[listener] = left

    @rule(listener=st.integers(0, 1), counts=st.tuples(st.integers(0, 45), st.integers(0, 45)), seed=st.integers(0, 9))
    def send(self, listener: int, counts: tuple[int, int], seed: int) -> None:
        """A batch of both tenants' messages."""
        batch: list[Any] = []
        for place, count in enumerate(counts):
            batch += values(self.devices[place], count, self.sent[place])
            self.sent[place] += count
        random.Random(seed).shuffle(batch)
        self.unacknowledged[listener] += batch
        self._settle(listener, self.listeners[listener].process(batch).to_acknowledge if batch else [])

    @rule(listener=st.integers(0, 1), times=st.integers(1, 4))
    def retry(self, listener: int, times: int) -> None:
        for _ in range(times):
            self._settle(listener, retry(self.listeners[listener]).to_acknowledge)

    @rule(listener=st.integers(0, 1))
    def look_for_what_is_aside(self, listener: int) -> None:
        self.listeners[listener].find_overflow()

    @rule(place=st.integers(0, 1), table=st.sampled_from(TABLES))
    def lock(self, place: int, table: str) -> None:
        if not self.is_locked[place]:
            self.locks[place].enter_context(locked(self.devices[place], table))
            self.is_locked[place] = True

    @rule(place=st.integers(0, 1))
    def unlock(self, place: int) -> None:
        self.locks[place].close()
        self.is_locked[place] = False

    # Common sequences as one rule each, so that examples get far.

    @rule(
        listener=st.integers(0, 1),
        place=st.integers(0, 1),
        table=st.sampled_from(TABLES),
        count=st.integers(31, 90),
        times=st.integers(0, 2),
    )
    def overflow(self, listener: int, place: int, table: str, count: int, times: int) -> None:
        """More messages of a locked tenant than the buffer keeps."""
        self.lock(place, table)
        self.send(listener, (count, 3) if place == 0 else (3, count), seed=0)
        for _ in range(times):
            self.retry(listener, 1)

    @rule(listener=st.integers(0, 1), place=st.integers(0, 1), times=st.integers(1, 4))
    def come_free_for_a_while(self, listener: int, place: int, times: int) -> None:
        self.unlock(place)
        self.retry(listener, times)

    @rule(listener=st.integers(0, 1))
    def lose_the_broker(self, listener: int) -> None:
        self.listeners[listener].drop_blocked()
        self._send_again(listener)

    @rule(listener=st.integers(0, 1))
    def lose_the_database(self, listener: int) -> None:
        """It keeps what it holds, and tries it again on a new connection."""
        self.listeners[listener].abandon()

    @rule(listener=st.integers(0, 1))
    def kill(self, listener: int) -> None:
        self.listeners[listener].writer.close()
        self.listeners[listener] = self._listener()
        self._send_again(listener)

    def _send_again(self, listener: int) -> None:
        if self.unacknowledged[listener]:
            self._settle(listener, self.listeners[listener].process(list(self.unacknowledged[listener])).to_acknowledge)

    def teardown(self) -> None:
        if not hasattr(self, "listeners"):
            return
        try:
            for place in range(2):
                self.unlock(place)
            for listener, ingest in enumerate(self.listeners):
                ingest.find_overflow()
                for _ in range(200):
                    self._settle(listener, retry(ingest).to_acknowledge)
                    if not ingest.blocked_schemas:
                        break
                assert not ingest.blocked_schemas, "what waited comes back"
                assert self.unacknowledged[listener] == [], "and is acknowledged"
            for place, device in enumerate(self.devices):
                count = self.sent[place]
                assert stored(device) == (count, [20 + n / 100 for n in range(count)])
                received, kept, again, *others = since(self.before[place], device)
                assert (received, kept, others) == (kept + again, count, [0, 0])
        finally:
            for ingest in self.listeners:
                ingest.close()


@pytest.fixture
def waiting_machine(
    live_db: None, register: Any, tenant_a: Any, tenant_b: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[type[Waiting]]:
    """The capacity is 30 messages; those of a free tenant are stored 40 at a time, soon."""
    from telemetry.services.ingest import blocked_tenants
    from tenants.infrastructure.database import bound_lock_waits

    monkeypatch.setattr(blocked_tenants, "_CAPACITY", 30)
    monkeypatch.setattr(blocked_tenants, "_BATCH_SIZE", 40)
    with schema_context("public"), connection.cursor() as cursor:
        cursor.execute("TRUNCATE tenants_waitingmessage, tenants_overflowusage")
    bound_lock_waits(50)
    Waiting.register, Waiting.tenants = staticmethod(register), (tenant_a, tenant_b)
    yield Waiting
    connection.settings_dict["OPTIONS"].pop("options")
    connection.close()


def test_random_interleavings_store_everything_once(waiting_machine: type[Waiting]) -> None:
    run_state_machine_as_test(
        waiting_machine,
        settings=settings(
            max_examples=25, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
