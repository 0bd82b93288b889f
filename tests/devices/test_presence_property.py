"""Two listeners and two checkers, interleaved and killed at random, against a simple model, on real servers.

Listeners hear signs and process them later, in batches; a checker takes expired deadlines, and settles them or
dies in between any two of its steps. The example's time runs apart from the servers': its signs lie in the past, and
their timeouts are lengthened by as much.
"""

import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django_redis import get_redis_connection
from django_tenants.utils import schema_context
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

SESSIONS = ("a", "b", "c")
TIMEOUT = 60
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Model:
    """What the device's status must be, from what was processed."""

    seen: datetime | None = None
    session: str = ""
    began: tuple[datetime | None, datetime] | None = None  # the session's birth by the device's clock, and its arrival
    wills: dict[str, datetime] = field(default_factory=dict)
    timed_out: bool = False

    def status(self) -> str:
        counting = [self.wills.get(self.session)] if self.session else self.wills.values()
        gone = max((at for at in counting if at is not None), default=None)
        if gone is not None and (self.seen is None or gone >= self.seen):
            return "OFFLINE"
        if self.seen is None:
            return "UNKNOWN"
        return "TIMEOUT" if self.timed_out else "ONLINE"

    def begin(self, session: str, clock: datetime | None, at: datetime) -> None:
        """A birth: by the clocks where both are right, else by the arrival."""
        if self.began is None or self.session == session:
            newest = True
        elif clock is not None and self.began[0] is not None:
            newest = clock >= self.began[0]
        else:
            newest = at >= self.began[1]
        if newest:
            again = self.began if self.session == session else None
            self.began = (again[0], max(again[1], at)) if again else (clock, at)
            self.session = session

    def hear(self, kind: str, at: datetime, session: str, clock: datetime | None = None) -> None:
        if kind == "will":
            self.wills[session] = max(at, self.wills.get(session, at))
        else:
            if self.seen is None or at > self.seen:
                self.timed_out = False
            self.seen = at if self.seen is None else max(self.seen, at)
            if kind == "birth":
                self.begin(session, clock, at)
        if self.status() == "OFFLINE":
            self.timed_out = False

    def settle(self, counted_from: datetime) -> None:
        """Silence, counted from then."""
        if self.status() == "ONLINE" and self.seen is not None and self.seen <= counted_from:
            self.timed_out = True


class Presence(RuleBasedStateMachine):
    """One device of tenant alpha, heard by two listeners, watched by two checkers."""

    tenant: Any

    @initialize()
    def register(self) -> None:
        from devices.models import Device, DeviceStatus
        from devices.services.presence.activity import PresenceRecorder

        get_redis_connection("default").flushdb()
        self.schema = self.tenant.schema_name
        with schema_context(self.schema):
            self.device = Device.objects.create(uuid=uuid4(), name=f"property {secrets.token_hex(3)}")
            DeviceStatus.objects.create(device=self.device)
        self.listeners = [PresenceRecorder(grace_seconds=2), PresenceRecorder(grace_seconds=2)]
        self.queues: list[list[Any]] = [[], []]
        self.taken: list[Any] = [None, None]
        self.silenced: list[Any] = [None, None]
        self.due = [False, False]  # whether the deadline had passed when it was taken
        self.model = Model()
        self.time = datetime.now(UTC) - timedelta(days=2)
        self.heard: list[Any] = []

    @property
    def member(self) -> str:
        return f"{self.schema}:{self.device.uuid}"

    def _sign(self, kind: str, session: str, wrong_clock: bool = False) -> Any:
        from devices.services.presence.activity import PresenceEvent

        self.time += timedelta(milliseconds=50)
        is_dated = kind == "birth" and not wrong_clock
        return PresenceEvent(
            kind=kind,  # type: ignore[arg-type]  # one of the literals
            schema=self.schema,
            device_id=self.device.pk,
            uuid=self.device.uuid,
            at=self.time,
            timeout=0,
            session=session if kind != "telemetry" else "",
            session_at=EPOCH + timedelta(seconds=SESSIONS.index(session)) if is_dated else None,
        )

    @rule(
        listener=st.integers(0, 1),
        kind=st.sampled_from(["birth", "telemetry", "telemetry", "will"]),
        session=st.sampled_from(SESSIONS),
        wrong_clock=st.booleans(),
    )
    def hear(self, listener: int, kind: str, session: str, wrong_clock: bool = False) -> None:
        self.queues[listener].append(self._sign(kind, session, wrong_clock))

    @rule(listener=st.integers(0, 1), which=st.integers(0, 50))
    def hear_again(self, listener: int, which: int) -> None:
        """A redelivery counts as when it came first."""
        if self.heard:
            self.queues[listener].append(self.heard[which % len(self.heard)])

    @rule(listener=st.integers(0, 1), killed=st.booleans())
    def process(self, listener: int, killed: bool) -> None:
        """A batch; killed before its acknowledgement, the listener's successor gets it again."""
        from devices.services.presence.activity import PresenceRecorder

        behind = (datetime.now(UTC) - self.time).total_seconds()
        batch = [replace(sign, timeout=behind + TIMEOUT) for sign in self.queues[listener]]
        self.queues[listener] = []
        self.listeners[listener].record(batch)
        self._note(batch)
        if killed:
            self.listeners[listener] = PresenceRecorder(grace_seconds=2)
            self.listeners[listener].record(batch)
            self._note(batch)

    # Common sequences as one rule each, so that examples get far.

    @rule(
        listener=st.integers(0, 1),
        kinds=st.lists(st.sampled_from(["birth", "telemetry", "telemetry", "will"]), min_size=1, max_size=3),
        session=st.sampled_from(SESSIONS),
        wrong_clock=st.booleans(),
    )
    def hear_and_process(self, listener: int, kinds: list[str], session: str, wrong_clock: bool = False) -> None:
        for kind in kinds:
            self.hear(listener, kind, session, wrong_clock)
        self.process(listener, killed=False)

    @rule(listener=st.integers(0, 1), which=st.integers(0, 50))
    def process_again(self, listener: int, which: int) -> None:
        self.hear_again(listener, which)
        self.process(listener, killed=False)

    @rule(checker=st.integers(0, 1), killed=st.booleans())
    def fall_silent(self, checker: int, killed: bool) -> None:
        self.time_passes()
        self.take(checker)
        if killed:
            self.kill_checker(checker)
        else:
            self.settle(checker)

    @rule(listener=st.integers(0, 1), step=st.integers(0, 2), again=st.booleans(), killed=st.booleans())
    def take_while_it_speaks(self, listener: int, step: int, again: bool, killed: bool) -> None:
        """Activity before, between or after the checker's steps, perhaps after an old message came again."""
        self.time_passes()
        self.take(0)
        if again:
            self.process_again(listener, 0)
        for at, work in enumerate((self.apply_silence, self.kill_checker if killed else self.settle)):
            if at == step:
                self.hear_and_process(listener, ["telemetry"], "a")
            work(0)
        if step == 2:
            self.hear_and_process(listener, ["telemetry"], "a")

    @rule(session=st.sampled_from(SESSIONS))
    def overtake_a_will(self, session: str) -> None:
        """One listener is slower with a will than the other with what came after it."""
        self.hear(1, "will", session)
        self.hear_and_process(0, ["telemetry"], session)
        self.process(1, killed=False)

    def _note(self, batch: list[Any]) -> None:
        # The batch's activity is written to Redis together, before its wills are evaluated.
        for sign in sorted(batch, key=lambda sign: sign.kind == "will"):
            self.model.hear(sign.kind, sign.at, sign.session, sign.session_at)
        self.heard += batch

    @rule()
    def time_passes(self) -> None:
        self.time += timedelta(seconds=TIMEOUT + 40)
        redis = get_redis_connection("default")
        deadline = redis.zscore("device_deadline", self.member)
        if deadline is not None:
            redis.zadd("device_deadline", {self.member: deadline - TIMEOUT - 40})

    @rule(checker=st.integers(0, 1))
    def take(self, checker: int) -> None:
        from devices.services.presence import activity, health_checker

        activity.record_listener_heartbeat()
        get_redis_connection("default").hset("device_listening", "since", 0)
        if self.taken[checker] is None:
            self.taken[checker] = health_checker.lease_expired(100)
            seen = self.model.seen
            self.due[checker] = seen is not None and self.time - seen > timedelta(seconds=TIMEOUT)

    @rule(checker=st.integers(0, 1))
    def apply_silence(self, checker: int) -> None:
        from devices.services.presence import health_checker

        taken = self.taken[checker]
        if taken is not None and self.silenced[checker] is None:
            self.silenced[checker] = health_checker.apply_silence(taken)
            device = taken.members.get(self.member)
            if device is not None and self.due[checker] and not device.active_again:
                # To the microsecond that Redis keeps.
                self.model.settle(datetime.fromtimestamp(device.seen + 1e-5, UTC))

    @rule(checker=st.integers(0, 1))
    def settle(self, checker: int) -> None:
        from devices.services.presence import health_checker

        self.apply_silence(checker)
        taken, self.taken[checker] = self.taken[checker], None
        silenced, self.silenced[checker] = self.silenced[checker], None
        if taken is not None:
            health_checker.release_leases(taken, silenced)

    @rule(checker=st.integers(0, 1))
    def kill_checker(self, checker: int) -> None:
        """Its lease runs out."""
        self.taken[checker] = self.silenced[checker] = None
        get_redis_connection("default").zadd("device_expiring", {self.member: 1}, xx=True)

    def _row(self) -> tuple[str, list[tuple[str, str]]]:
        from devices.models import DeviceStatus, StatusChange

        with schema_context(self.schema):
            changes = StatusChange.objects.filter(device=self.device).order_by("id")
            return (
                DeviceStatus.objects.get(device=self.device).status,
                list(changes.values_list("from_status", "to_status")),
            )

    @invariant()
    def the_ledger_chains(self) -> None:
        if not hasattr(self, "model"):
            return
        status, changes = self._row()
        chain = ["UNKNOWN", *(new for _, new in changes)]
        assert [old for old, _ in changes] == chain[:-1]
        assert status == chain[-1]

    def teardown(self) -> None:
        """When everything was processed and every lease has ended, the status is the model's."""
        if not hasattr(self, "model"):
            return
        for listener in range(2):
            self.process(listener, killed=False)
        for checker in range(2):
            self.settle(checker)
        self.kill_checker(0)
        self.take(0)
        self.settle(0)
        assert self._row()[0] == self.model.status(), self._row()
        if self.model.status() == "ONLINE":
            deadline = get_redis_connection("default").zscore("device_deadline", self.member)
            assert deadline is not None, "ONLINE without a deadline is ONLINE for ever"


@pytest.fixture
def presence_machine(live_db: None, tenant_a: Any) -> Iterator[type[Presence]]:
    Presence.tenant = tenant_a
    yield Presence
    from devices.models import Device

    get_redis_connection("default").flushdb()
    with schema_context(tenant_a.schema_name), suppress(Exception):
        Device.objects.filter(name__startswith="property ").delete()


def test_random_interleavings_end_as_the_model_says(presence_machine: type[Presence]) -> None:
    run_state_machine_as_test(
        presence_machine,
        settings=settings(
            max_examples=100, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
