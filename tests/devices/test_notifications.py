"""The outbox: published changes and their order, suppressed changes, and changes that are published later."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django_tenants.utils import schema_context

from tests.factories import make_device

HOUR = timedelta(hours=1)


@dataclass
class Fleet:
    """One device of a tenant, and the states of it that apps receive."""

    schema: str
    device: Any
    published: list[tuple[str, bool]] = field(default_factory=list)
    fails: bool = False

    def change(self, *kinds: str, at: datetime | None = None) -> None:
        from devices.services.presence.state_machine import Signal
        from devices.services.presence.state_store import apply_signals

        for kind in kinds:
            now = at or datetime.now(UTC)
            apply_signals(self.schema, [(self.device.pk, Signal(kind, now))], now)  # type: ignore[arg-type]

    def publish(self, states: Sequence[Any]) -> None:
        if self.fails:
            raise ConnectionError
        self.published += [(state.status, state.flapping) for state in states if state.uuid == self.device.uuid]

    def notify(self) -> list[tuple[str, bool]]:
        """Empty the outbox. Return the states of the device that were published: (state, flapping)."""
        from devices.services.notifications.outbox import publish_changes

        self.published.clear()
        while publish_changes(self.schema, self.publish):
            pass
        return list(self.published)

    def settle(self) -> list[tuple[str, bool]]:
        from devices.services.notifications.outbox import publish_pending

        self.published.clear()
        publish_pending(self.schema, self.publish)
        return list(self.published)

    def recorded_changes(self) -> list[tuple[str, str]]:
        """(state, why quiet) in the order of positions; fails where one has none."""
        with schema_context(self.schema):
            rows = list(
                self.device.status_changes.order_by("position").values_list("to_status", "suppressed_by", "position")
            )
        assert all(position is not None for _, _, position in rows)
        return [(state, quiet) for state, quiet, _ in rows]

    def positions(self) -> list[int | None]:
        with schema_context(self.schema):
            return list(self.device.status_changes.order_by("id").values_list("position", flat=True))

    def update(self, **values: Any) -> None:
        from devices.models import DeviceStatus

        with schema_context(self.schema):
            DeviceStatus.objects.filter(pk=self.device.pk).update(**values)

    def maintain(self, start: timedelta, end: timedelta) -> Any:
        from devices.models import MaintenanceWindow

        now = datetime.now(UTC)
        with schema_context(self.schema):
            return MaintenanceWindow.objects.create(device=self.device, starts_at=now + start, ends_at=now + end)


@pytest.fixture
def fleet(db: None, tenant_a: Any) -> Fleet:
    """Alone: what other tests have left in the outbox is not for this one."""
    from devices.models import DeviceStatus, PresenceSettings, StatusChange

    with schema_context(tenant_a.schema_name):
        StatusChange.objects.filter(position=None).delete()
        DeviceStatus.objects.update(pending_update="")
        PresenceSettings(flapping_changes=3, flapping_window_seconds=600).save()
    return Fleet(tenant_a.schema_name, make_device(tenant_a, "in the outbox"))


def test_changes_are_told_in_order_and_numbered(fleet: Fleet) -> None:
    fleet.change("birth", "will")
    assert fleet.notify() == [("ONLINE", False), ("OFFLINE", False)]
    first, second = fleet.positions()
    assert (first or 0) + 1 == second
    assert fleet.notify() == []


def test_what_the_broker_did_not_take_stays_in_the_outbox(fleet: Fleet) -> None:
    fleet.change("birth")
    fleet.fails = True
    with pytest.raises(ConnectionError):
        fleet.notify()
    assert fleet.positions() == [None]
    fleet.fails = False
    assert fleet.notify() == [("ONLINE", False)]


def test_a_position_is_never_given_twice(fleet: Fleet, tenant_a: Any) -> None:
    fleet.change("birth")
    fleet.notify()
    (before,) = fleet.positions()
    with schema_context(fleet.schema):
        fleet.device.delete()
    fleet.device = make_device(tenant_a, "the next")
    fleet.change("birth")
    fleet.notify()
    assert fleet.positions() == [(before or 0) + 1]


def test_another_notifier_at_work_is_not_disturbed(fleet: Fleet) -> None:
    from devices.services.notifications.outbox import NotifierBusy, publish_changes
    from tenants.infrastructure.database import conninfo

    fleet.change("birth")
    key = "hashtext('gwanje_notify'), hashtext(%s)"
    with psycopg.connect(conninfo()) as other:
        other.execute(f"SELECT pg_advisory_xact_lock({key})", [fleet.schema])
        with pytest.raises(NotifierBusy):
            publish_changes(fleet.schema, fleet.publish)
    assert fleet.notify() == [("ONLINE", False)]


def test_flapping_is_told_once_then_damped_then_settled(fleet: Fleet) -> None:
    published = []
    for kind in ("birth", "will", "birth", "will", "birth", "will"):
        fleet.change(kind)
        published += fleet.notify()
    assert published == [("ONLINE", False), ("OFFLINE", False), ("ONLINE", True)], "the third change is flapping"
    assert [quiet for _, quiet in fleet.recorded_changes()] == ["", "", "", "flapping", "flapping", "flapping"]
    assert fleet.settle() == [], "it still flaps"
    fleet.update(flapping_until=datetime.now(UTC))
    assert fleet.settle() == [("OFFLINE", False)]
    assert fleet.settle() == [], "once"
    fleet.change("birth", at=datetime.now(UTC) + 2 * HOUR)
    assert fleet.notify() == [("ONLINE", False)]


def test_a_device_that_flaps_and_ends_as_it_was_told_is_told_that_it_flaps_no_more(fleet: Fleet) -> None:
    for kind in ("birth", "will", "birth"):
        fleet.change(kind)
        fleet.notify()
    fleet.update(flapping_until=datetime.now(UTC))
    assert fleet.settle() == [("ONLINE", False)]


def test_a_backlog_of_flapping_is_not_poured_out(fleet: Fleet) -> None:
    fleet.change(*("birth", "will") * 5)
    assert len(fleet.notify()) == 1
    fleet.update(flapping_until=datetime.now(UTC))
    assert fleet.settle() == [("OFFLINE", False)]


def test_maintenance_is_quiet_and_its_end_is_told(fleet: Fleet) -> None:
    fleet.change("birth")
    fleet.notify()
    window = fleet.maintain(-HOUR, HOUR)
    fleet.change("will")
    assert fleet.notify() == []
    assert fleet.recorded_changes() == [("ONLINE", ""), ("OFFLINE", "maintenance")]
    assert fleet.settle() == []
    with schema_context(fleet.schema):
        window.ends_at = datetime.now(UTC)
        window.save()
    assert fleet.settle() == [("OFFLINE", False)]
    assert fleet.settle() == []


def test_a_window_that_is_over_or_to_come_or_of_another_device_keeps_nothing_quiet(fleet: Fleet, tenant_a: Any) -> None:
    fleet.maintain(-2 * HOUR, -HOUR)
    fleet.maintain(HOUR, 2 * HOUR)
    fleet.change("birth")
    own, fleet.device = fleet.device, make_device(tenant_a, "in maintenance")
    fleet.maintain(-HOUR, HOUR)
    fleet.device = own
    assert fleet.notify() == [("ONLINE", False)]


def test_a_window_over_the_beginning_of_flapping_tells_at_its_end_that_it_flaps(fleet: Fleet) -> None:
    window = fleet.maintain(-HOUR, HOUR)
    fleet.change("birth", "will", "birth")
    assert fleet.notify() == []
    with schema_context(fleet.schema):
        window.delete()
    assert fleet.settle() == [("ONLINE", True)]
    fleet.change("will")
    assert fleet.notify() == []
    fleet.update(flapping_until=datetime.now(UTC))
    assert fleet.settle() == [("OFFLINE", False)]


def test_a_deactivated_device_is_told_as_unknown_whatever_it_did_before(fleet: Fleet) -> None:
    from devices.services.notifications.outbox import publish_current

    fleet.maintain(-HOUR, HOUR)
    fleet.change("birth", "will", "birth", "deactivated")
    with schema_context(fleet.schema):
        type(fleet.device).objects.filter(pk=fleet.device.pk).update(active=False)
    assert fleet.notify() == [("UNKNOWN", False)]
    assert [quiet for _, quiet in fleet.recorded_changes()] == ["inactive", "inactive", "inactive", ""]
    fleet.change("birth")
    assert fleet.notify() == []
    assert fleet.settle() == []
    assert publish_current(fleet.schema, [fleet.device.uuid], fleet.publish) == 0


@pytest.mark.parametrize(
    ("active", "to_status", "in_window", "flaps", "pending", "suppressed_by"),
    [
        (True, "OFFLINE", False, False, "", ""),
        (True, "OFFLINE", False, True, "", ""),  # it begins to flap: published once
        (True, "OFFLINE", False, True, "flapping", "flapping"),
        (True, "OFFLINE", False, True, "maintenance", ""),
        (True, "OFFLINE", False, False, "flapping", ""),
        (True, "OFFLINE", True, False, "", "maintenance"),
        (True, "OFFLINE", True, True, "flapping", "maintenance"),
        (False, "OFFLINE", False, False, "", "inactive"),
        (False, "OFFLINE", True, True, "flapping", "inactive"),
        (False, "UNKNOWN", True, True, "flapping", ""),
    ],
)
def test_suppression(
    active: bool, to_status: str, in_window: bool, flaps: bool, pending: str, suppressed_by: str
) -> None:
    from devices.models import Device, DeviceStatus, StatusChange
    from devices.services.notifications.outbox import suppression_of

    at = datetime.now(UTC)
    device = Device(active=active)
    device.presence = DeviceStatus(device=device, flapping_until=at + HOUR if flaps else at)
    change = StatusChange(device=device, to_status=to_status, at=at)
    assert suppression_of(change, in_window=in_window, pending_update=pending) == suppressed_by


@pytest.fixture
def heard(fleet: Fleet) -> Callable[[], list[Any]]:
    """What is said on the tenant's Redis channel."""
    from django_redis import get_redis_connection

    from devices.services.notifications import status_feed

    pubsub = get_redis_connection("default").pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(status_feed.channel(fleet.schema))

    def hear() -> list[Any]:
        events = []
        while (message := pubsub.get_message(timeout=0.2)) is not None:
            if message and message["type"] == "message":
                events.append(status_feed.parse(message["data"]))
        return events

    assert hear() == []
    return hear


def test_watchers_hear_of_every_change_the_quiet_ones_too(fleet: Fleet, heard: Callable[[], list[Any]]) -> None:
    from devices.services.notifications import status_feed

    fleet.change("birth")
    fleet.notify()
    fleet.maintain(-HOUR, HOUR)
    fleet.change("will")
    fleet.notify()
    events = heard()
    assert [(event.old, event.new, event.suppressed_by) for event in events] == [
        ("UNKNOWN", "ONLINE", ""),
        ("ONLINE", "OFFLINE", "maintenance"),
    ]
    with schema_context(fleet.schema):
        page = status_feed.read(events[0].position - 1)
        assert (page.events, page.upto, page.is_last) == (events, events[1].position, True)
        assert status_feed.read(events[0].position).events == events[1:]
        other = status_feed.read(events[0].position - 1, uuid4())
        assert (other.events, other.upto) == ([], events[1].position)
