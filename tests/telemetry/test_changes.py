"""The changes in the order of storing: each once, and none passed by, however long a commit takes."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from django.db import connection, transaction
from django_tenants.utils import schema_context

from devices.models import Component, ComponentType
from telemetry.models import ChangeGeneration, Message, Quarantined, Reading, RetentionSettings
from telemetry.services.queries import changes
from telemetry.services.retention import quarantine, telemetry
from tests import payloads
from tests.api.client import Api, problems
from tests.factories import Registered, issue_key, make_tenant, register_device, remove_tenant
from tests.processes import wait_until

Row = tuple[Any, ...]


@pytest.fixture
def tenant(live_db: None) -> Iterator[Any]:
    made = make_tenant("changes")
    yield made
    remove_tenant(made)


@pytest.fixture
def device(tenant: Any) -> Registered:
    return register_device(tenant)


@pytest.fixture
def api(tenant: Any, settings: Any) -> Api:
    settings.API_REQUESTS_PER_MINUTE = 0
    return Api(tenant.slug, key=issue_key(tenant))


@pytest.fixture
def pipelines(live_db: None) -> Iterator[Callable[[], Any]]:
    """Make the work of one more listener."""
    from telemetry.services.ingest.batch_pipeline import build_pipeline

    made: list[Any] = []

    def make() -> Any:
        made.append(build_pipeline())
        return made[-1]

    yield make
    for one in made:
        one.writer.close()


class Mirror:
    """A program's copy of one list, kept by its cursor."""

    def __init__(self, api: Api, path: str, **query: Any) -> None:
        self._api, self._next, self._query = api, path, query
        self.rows: list[dict[str, Any]] = []
        self.page: dict[str, Any] = {}

    def poll(self) -> list[dict[str, Any]]:
        """Read one page; return its rows."""
        answer = self._api.get(self._next, **self._query)
        assert answer.status_code == 200, answer.content
        self.page, self._query = answer.json(), {}
        self._next = self.page["next"]
        self.rows += self.page["results"]
        return list(self.page["results"])

    def catch_up(self) -> list[dict[str, Any]]:
        """Read until nothing waits."""
        self.poll()
        wait_until(lambda: self._is_level() or (self.poll() and False), 20, lambda: str(self.page))
        return self.rows

    def _is_level(self) -> bool:
        if self.page["has_more"] or self.page["behind_seconds"]:
            self.poll()
        return not (self.page["has_more"] or self.page["behind_seconds"])


def incoming(*messages: tuple[str, bytes]) -> list[Any]:
    from telemetry.services.pipeline.results import Incoming

    return [Incoming(topic, payload, datetime.now(UTC), mid) for mid, (topic, payload) in enumerate(messages, 1)]


def message(device: Registered, number: int, **options: Any) -> tuple[str, bytes]:
    return payloads.topic(device), payloads.v2(device, {"temp": 20, "humidity": number / 100}, seq=number, **options)


def key(row: dict[str, Any]) -> Row:
    return row["metric"], datetime.fromisoformat(row["time"]), row["value"]


def stored(tenant: Any) -> list[Row]:
    """What is in the tenant's table of readings."""
    with schema_context(tenant.schema_name):
        return sorted(Reading.objects.values_list("series__metric", "time", "value"))


def test_each_reading_comes_once_with_its_names_and_late_ones_come_last(
    api: Api, tenant: Any, device: Registered, pipelines: Any
) -> None:
    listener = pipelines()
    listener.process(incoming(message(device, 1), message(device, 2)))
    mirror = Mirror(api, "readings/changes/")
    first = mirror.catch_up()[0]
    assert first.keys() == {"device", "component", "metric", "value", "unit", "time", "stored_at"}
    assert (first["device"], first["component"]) == (device.uuid, "dht22")
    assert (mirror.page["complete"], mirror.page["has_more"]) == (True, False)
    assert mirror.poll() == []

    late, again = message(device, 3, ago=5000), message(device, 2)
    listener.process(incoming(late))
    assert [row["value"] for row in mirror.poll()] in ([20.0, 0.03], [0.03, 20.0])
    listener.process(incoming(late, again, message(device, 4)))  # the conflict-aware way: one of them is new
    assert {row["value"] for row in mirror.catch_up()[-2:]} == {20.0, 0.04}
    assert sorted(map(key, mirror.rows)) == stored(tenant)


def test_a_page_may_end_within_a_batch(api: Api, tenant: Any, device: Registered, pipelines: Any) -> None:
    pipelines().process(incoming(*(message(device, n) for n in range(7))))
    for limit in (1, 3, 14, 1000):
        mirror = Mirror(api, "readings/changes/", limit=limit)
        assert len(mirror.catch_up()) == 14, limit
        assert sorted(map(key, mirror.rows)) == stored(tenant)


def test_what_is_selected(api: Api, tenant: Any, device: Registered, pipelines: Any) -> None:
    other = register_device(tenant)
    pipelines().process(incoming(message(device, 1), message(other, 2), message(device, 3)))

    def found(**query: Any) -> set[Row]:
        rows = Mirror(api, "readings/changes/", limit=1, **query).catch_up()
        return {(row["device"], row["metric"]) for row in rows}

    assert found(device=other.uuid) == {(other.uuid, "temperature"), (other.uuid, "humidity")}
    assert found(metric="humidity") == {(device.uuid, "humidity"), (other.uuid, "humidity")}
    assert found(component="pump") == set()
    model = device.device.hardware_model_id
    assert len(found(hardware_model=model, metric="humidity", device=device.uuid)) == 1
    cursor = api.get("readings/changes/").json()["next"].split("cursor=")[1]
    assert api.get("readings/changes/", metric="humidity", cursor=cursor).status_code == 400, "of another list"


def test_a_copy_begins_with_the_newest(api: Api, device: Registered, pipelines: Any) -> None:
    listener = pipelines()
    assert Mirror(api, "readings/changes/").catch_up() == []
    empty = Mirror(api, "readings/changes/", start="newest")
    assert empty.catch_up() == []
    listener.process(incoming(message(device, 1)))
    mirror = Mirror(api, "readings/changes/", start="newest")
    assert mirror.catch_up() == []
    listener.process(incoming(message(device, 2)))
    assert {row["value"] for row in mirror.catch_up()} == {20.0, 0.02}
    assert len(empty.catch_up()) == 4


class SlowCommit(threading.Thread):
    """A listener whose transaction has its number, and stores and commits later."""

    def __init__(self, listener: Any, device: Registered, number: int) -> None:
        super().__init__()
        self.listener, self.device, self.number = listener, device, number
        self.has_begun, self.may_commit = threading.Event(), threading.Event()

    def run(self) -> None:
        def wait(own: psycopg.Connection) -> None:
            own.execute("SELECT pg_current_xact_id()")
            self.has_begun.set()
            assert self.may_commit.wait(60)

        items = self.listener.preparer.validate(incoming(message(self.device, self.number)))
        self.listener.writer.store(self.device.tenant.schema_name, items, before=wait)

    def __enter__(self) -> "SlowCommit":
        self.start()
        assert self.has_begun.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self.may_commit.set()
        self.join()


def test_a_transaction_that_commits_late_is_not_passed(
    api: Api, tenant: Any, device: Registered, pipelines: Any
) -> None:
    quick, slow = pipelines(), pipelines()
    quick.process(incoming(message(device, 0)))
    mirror = Mirror(api, "readings/changes/")
    mirror.catch_up()
    with SlowCommit(slow, register_device(tenant), 1):
        quick.process(incoming(message(device, 2)))
        assert mirror.poll() == [], "it waits for the earlier transaction"
        assert (mirror.page["has_more"], mirror.page["behind_seconds"] > 0) == (False, True)
    assert [row["value"] for row in mirror.catch_up() if row["metric"] == "humidity"] == [0.0, 0.01, 0.02]
    assert mirror.page["behind_seconds"] == 0
    assert sorted(map(key, mirror.rows)) == stored(tenant)


def test_without_holding_back_it_would_be_passed(
    api: Api, tenant: Any, device: Registered, pipelines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the same with a reader that takes whatever is committed."""
    quick, slow = pipelines(), pipelines()
    quick.process(incoming(message(device, 0)))
    monkeypatch.setattr(changes, "_PAGE", changes._PAGE.replace(changes._FINISHED, "true"))
    mirror = Mirror(api, "readings/changes/")
    mirror.catch_up()
    with SlowCommit(slow, register_device(tenant), 1):
        quick.process(incoming(message(device, 2)))
        mirror.poll()
    mirror.catch_up()
    assert len(stored(tenant)) - len(mirror.rows) == 2, "the slow transaction's readings are missed for ever"


def test_a_copy_equals_the_tables_whatever_is_killed(api: Api, tenant: Any, device: Registered, pipelines: Any) -> None:
    """Two listeners store at once, their connections are killed at random moments, and messages come again."""
    other = register_device(tenant)
    mirror, rounds = Mirror(api, "readings/changes/", limit=100), 12
    messages = Mirror(api, "messages/changes/")

    def listen(own: Registered, numbers: range) -> None:
        listener = pipelines()
        for number in numbers:
            batch = [message(own, number * 5 + n, ago=n * 900) for n in range(5)]
            for _attempt in range(20):
                try:
                    listener.process(incoming(*batch))
                    while listener.blocked_messages:
                        listener.retry_blocked()
                    break
                except psycopg.Error:
                    continue

    for number in range(rounds):
        threads = [
            threading.Thread(target=listen, args=(own, range(number * 4, number * 4 + 4))) for own in (device, other)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'gwanje-ingest' AND state <> 'idle' AND random() < 0.3"
                )
            mirror.poll()
        for thread in threads:
            thread.join()
        assert sorted(map(key, mirror.catch_up())) == stored(tenant)
    assert len(stored(tenant)) == rounds * 2 * 4 * 5 * 2
    with schema_context(tenant.schema_name):
        assert len(messages.catch_up()) == Message.objects.count() == rounds * 2 * 4 * 5


def test_messages_and_births_come_as_they_were_stored(api: Api, device: Registered, pipelines: Any) -> None:
    listener = pipelines()
    sent = message(device, 1)
    listener.process(incoming(sent))
    mirror = Mirror(api, "messages/changes/", device=device.uuid)
    [row] = mirror.catch_up()
    assert (row["topic"], row["payload"], row["device"]) == (sent[0], sent[1].decode(), device.uuid)
    assert row["stored_at"] >= row["received_at"][:10]
    listener.process(incoming(sent, message(device, 2)))
    assert [row["topic"] for row in mirror.catch_up()] == [sent[0]] * 2


def test_the_quarantine_is_followed_to_the_end(api: Api, tenant: Any, pipelines: Any) -> None:
    device = register_device(tenant, {})
    wrong = payloads.topic(device), payloads.v1(device, {"temp": 1})
    pipelines().process(incoming(wrong))
    mirror, readings = Mirror(api, "quarantine/changes/"), Mirror(api, "readings/changes/")
    [row] = mirror.catch_up()
    assert (row["removed"], row["message"]["reason"]) == (False, "component_not_attached")
    pipelines().process(incoming(wrong))
    assert [(row["id"], row["message"]["count"]) for row in mirror.poll()] == [(row["id"], 2)]

    assert replay(tenant, pipelines()).refused == {"component_not_attached": 1}
    assert [row["id"] for row in mirror.poll()] == [row["id"]]
    with schema_context(tenant.schema_name):
        Component.objects.create(
            device=device.device, key="dht22", component_type=ComponentType.objects.get(key="dht22")
        )
    assert replay(tenant, pipelines()).stored == 1
    assert [(row["removed"], row["message"]) for row in mirror.poll()] == [(True, None)]
    assert [row["value"] for row in readings.catch_up()] == [1.0], "what a replay stored"

    pipelines().process(incoming((payloads.topic(device, "pump"), payloads.v1(device, {"temp": 1}))))
    assert len(mirror.poll()) == 1
    with schema_context(tenant.schema_name):
        quarantine.apply_retention(now=datetime.now(UTC) + timedelta(days=4000))
        assert Quarantined.objects.count() == 0
    assert [row["removed"] for row in mirror.poll()] == [True]


def replay(tenant: Any, listener: Any) -> Any:
    """Process the quarantine again."""
    from telemetry.services.ingest import reprocessing

    with schema_context(tenant.schema_name):
        rows = reprocessing.next_page(Quarantined.objects.all(), 0)
    return reprocessing.replay_page(listener, tenant.schema_name, rows)


def test_status_changes_come_in_the_order_of_publication(
    api: Api, tenant: Any, device: Registered, pipelines: Any
) -> None:
    from devices.models import StatusChange
    from devices.services.notifications import status_feed

    pipelines().process(incoming(message(device, 1)))
    mirror = Mirror(api, "status-changes/")
    mirror.poll()
    assert (mirror.rows, mirror.page["behind_seconds"] > 0) == ([], True), "not published yet"
    with schema_context(tenant.schema_name):
        change = StatusChange.objects.get(device=device.device)
        with transaction.atomic():
            status_feed.give_positions([change])
            change.save()
    [row] = mirror.catch_up()
    assert (row["device"], row["from"], row["to"]) == (device.uuid, "UNKNOWN", "ONLINE")
    assert mirror.poll() == []


# --- positions that are lost ------------------------------------------------------------------------------------


def age(tenant: Any, days: int) -> None:
    """Make the changes so many days older."""
    with schema_context(tenant.schema_name), connection.cursor() as cursor:
        cursor.execute("UPDATE telemetry_changebatch SET stored_at = stored_at - make_interval(days => %s)", [days])


def test_a_cursor_behind_which_retention_removed_something_is_gone(
    api: Api, tenant: Any, device: Registered, pipelines: Any
) -> None:
    listener = pipelines()
    listener.process(incoming(message(device, 1)))
    early, level = Mirror(api, "readings/changes/", limit=1), Mirror(api, "readings/changes/")
    early.poll()
    level.catch_up()
    age(tenant, 100)
    with schema_context(tenant.schema_name):
        RetentionSettings(messages_months=1).save()
        telemetry.apply_retention()
    listener.process(incoming(message(device, 2)))

    refused = api.get(early.page["next"])
    assert (refused.status_code, refused.json()["code"]) == (410, "position_dropped")
    assert "Start without a cursor" in problems(refused)[None]
    assert len(level.catch_up()) == 4, "it had read all that was removed"
    anew = Mirror(api, "readings/changes/")
    assert len(anew.poll()) == 2
    assert anew.page["complete"] is False


def test_readings_from_before_an_upgrade_are_told(api: Api, tenant: Any, device: Registered, pipelines: Any) -> None:
    pipelines().process(incoming(message(device, 1)))
    with schema_context(tenant.schema_name), connection.cursor() as cursor:
        cursor.execute("TRUNCATE telemetry_changebatch, telemetry_changegeneration")
    pipelines().process(incoming(message(device, 2)))
    mirror = Mirror(api, "readings/changes/")
    assert len(mirror.poll()) == 2
    assert mirror.page["complete"] is False


def restore(tenant: Any, *, lost: int = 0, renamed: bool = False, ahead: int = 0) -> None:
    """Make the tenant's changes those of another database, without the last batches; its numbers were `ahead`."""
    with schema_context(tenant.schema_name), connection.cursor() as cursor:
        cursor.execute("UPDATE telemetry_changegeneration SET database = 'before'")
        if renamed:
            cursor.execute("UPDATE telemetry_changegeneration SET name = gen_random_uuid()")
        cursor.execute("UPDATE telemetry_changebatch SET transaction = transaction + %s", [ahead])
        cursor.execute(
            "DELETE FROM telemetry_changebatch WHERE transaction IN"
            " (SELECT transaction FROM telemetry_changebatch ORDER BY transaction DESC LIMIT %s)",
            [lost],
        )


def test_numbers_that_go_back_hide_nothing(api: Api, tenant: Any, device: Registered, pipelines: Any) -> None:
    pipelines().process(incoming(message(device, 1)))
    restore(tenant, ahead=10**9)
    mirror = Mirror(api, "readings/changes/")
    mirror.poll()
    pipelines().process(incoming(message(device, 2)))
    mirror.catch_up()
    pipelines().process(incoming(message(device, 3)))
    assert sorted(map(key, mirror.catch_up())) == stored(tenant)
    with schema_context(tenant.schema_name):
        assert ChangeGeneration.objects.count() == 2


def test_a_cursor_of_changes_that_a_backup_lacks_is_gone(
    api: Api, tenant: Any, device: Registered, pipelines: Any
) -> None:
    listener = pipelines()
    listener.process(incoming(message(device, 1)))
    listener.process(incoming(message(device, 2)))
    mirror = Mirror(api, "readings/changes/")
    mirror.catch_up()
    restore(tenant, lost=1)
    pipelines().process(incoming(message(device, 3)))
    refused = api.get(mirror.page["next"])
    assert (refused.status_code, refused.json()["code"]) == (410, "feed_restarted")

    restore(tenant, renamed=True)
    refused = api.get(mirror.page["next"])
    assert (refused.status_code, refused.json()["code"]) == (410, "feed_restarted")
