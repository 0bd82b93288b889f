"""Lists with `changed_since`: a mirror that a program keeps equals the tenant's objects, whatever commits when."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone
from django_tenants.utils import schema_context

from devices.domain.selector import Selector
from devices.models import (
    ApiKey,
    Component,
    ComponentType,
    Device,
    HardwareModel,
    MaintenanceWindow,
    Metric,
    Place,
    Unit,
)
from devices.models import ObjectChange as Change
from devices.services import object_changes
from tests.factories import issue_key, make_device, make_tenant, make_user, remove_tenant

from .client import HOUR, T0, Api, problem_of, problems

# List → the member that names its objects.
KEYS = {
    "devices": "uuid", "components": "id", "component-types": "id", "metrics": "id", "units": "id",
    "hardware-models": "id", "places": "key", "maintenance-windows": "id", "api-keys": "id",
}  # fmt: skip
# Members that follow from the time or the devices' messages, and not from a change of the object.
_NOT_MIRRORED = frozenset(
    {
        "status", "status_changed_at", "status_cause", "status_description", "last_seen_at", "flapping",
        "in_maintenance", "effective_timeout_seconds", "timeout_source", "effective_interval_seconds",
        "last_reading_at", "freshness", "last_used_at", "valid", "ends_soon",
    }
)  # fmt: skip


def mirrored(shown: Any) -> Any:
    if isinstance(shown, dict):
        return {name: mirrored(value) for name, value in shown.items() if name not in _NOT_MIRRORED}
    return [mirrored(value) for value in shown] if isinstance(shown, list) else shown


class Mirror:
    """A program's copy of one list."""

    def __init__(self, api: Api, path: str) -> None:
        self.api, self.path = api, path
        self.rows: dict[Any, Any] = {}
        self.cursor = api.get(f"{path}/", changed_since="newest").json()["changed_since"]
        for row in whole_list(api, path):
            self.rows[row[KEYS[path]]] = mirrored(row)

    def follow(self, limit: int = 100) -> int:
        """Read what was changed; return how many pages it took."""
        pages, answer = 1, self.api.get(f"{self.path}/", changed_since=self.cursor, limit=limit)
        while True:
            assert answer.status_code == 200, answer.content
            page = answer.json()
            assert page["count"] == len(page["results"])
            for row in page["results"]:
                self.rows[row[KEYS[self.path]]] = mirrored(row)
            for key in page["removed"]:
                self.rows.pop(key, None)
            self.cursor = page["changed_since"]
            if page["next"] is None:
                return pages
            pages, answer = pages + 1, self.api.get(page["next"])

    def equals_the_list(self) -> bool:
        return self.rows == {row[KEYS[self.path]]: mirrored(row) for row in whole_list(self.api, self.path)}


def whole_list(api: Api, path: str) -> Iterator[Any]:
    address = f"{path}/?limit=1000"
    while address:
        page = api.get(address).json()
        yield from page["results"]
        address = page["next"]


@pytest.fixture
def mirrors(db: None, tenant_a: Any, settings: Any) -> dict[str, Mirror]:
    settings.MQTT_ADMIN_URL = ""
    admin = Api(tenant_a.slug, user=make_user("an-admin", tenant_a, "admin"))
    return {path: Mirror(admin, path) for path in KEYS}


def make_objects(tenant: Any) -> dict[str, Any]:
    """One object of each kind, and what shows a part of them."""
    with schema_context(tenant.schema_name):
        kind = ComponentType.objects.create(key="mirrored", name="type")
        unit = Unit.objects.create(symbol="mu", name="mu", quantity="q", ucum="m")
        model = HardwareModel.objects.create(name="mirrored", version="1")
        model.allowed_component_types.add(kind)
        place = Place.objects.create(key="above", name="above")
        below = Place.objects.create(key="below", name="below", parent=place)
        metric = Metric.objects.create(component_type=kind, key="m", path="m", unit=unit)
        device = make_device(tenant, "mirrored", part="mirrored")
        Device.objects.filter(pk=device.pk).update(place=place, hardware_model=model)
        window = MaintenanceWindow.objects.create(device=device, starts_at=T0, ends_at=T0 + HOUR)
        issue_key(tenant)
        key = ApiKey.objects.latest("id")
        return {
            "type": kind, "unit": unit, "model": model, "place": place, "below": below, "metric": metric,
            "device": device, "window": window, "key": key, "component": Component.objects.get(device=device),
        }  # fmt: skip


# Each change, and the lists in which it is seen.
CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], set[str]]] = {
    "tags by one statement": (lambda o: Device.objects.filter(pk=o["device"].pk).update(tags=["a"]), {"devices"}),
    "a component's name": (
        lambda o: Component.objects.filter(pk=o["component"].pk).update(name="n"), {"components", "devices"},
    ),
    "a new key of a device": (lambda o: o["device"].credentials.create(version=2), {"devices"}),
    "the key of a type": (
        lambda o: ComponentType.objects.filter(pk=o["type"].pk).update(key="renamed"),
        {"component-types", "components", "devices", "metrics", "hardware-models"},
    ),
    "a metric's path": (
        lambda o: Metric.objects.filter(pk=o["metric"].pk).update(path="other"), {"metrics", "component-types"},
    ),
    "a unit's symbol": (
        lambda o: Unit.objects.filter(pk=o["unit"].pk).update(symbol="nu"), {"units", "metrics", "component-types"},
    ),
    "an allowed type less": (lambda o: o["model"].allowed_component_types.clear(), {"hardware-models"}),
    "the key of a place": (lambda o: _rename(o["place"]), {"places", "devices"}),
    "a window's description": (
        lambda o: MaintenanceWindow.objects.filter(pk=o["window"].pk).update(reason="r"), {"maintenance-windows"},
    ),
    "an API key's end": (
        lambda o: ApiKey.objects.filter(pk=o["key"].pk).update(revoked_at=timezone.now()), {"api-keys"},
    ),
    "a device removed with its components": (
        lambda o: o["device"].delete(), {"devices", "components", "maintenance-windows"},
    ),
    "a component removed": (lambda o: o["component"].delete(), {"components", "devices"}),
    "a metric removed": (lambda o: o["metric"].delete(), {"metrics", "component-types"}),
    "a place removed": (lambda o: o["below"].delete(), {"places"}),
}  # fmt: skip
# Changes that no list shows: the platform makes them by itself, and often.
UNSEEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "the last use of an API key": lambda o: ApiKey.objects.filter(pk=o["key"].pk).update(last_used_at=timezone.now()),
    "the first use of a device's key": lambda o: o["device"].credentials.update(in_use_since=timezone.now()),
    "accepted signatures": lambda o: Device.objects.filter(pk=o["device"].pk).update(min_signature_version=2),
    "a row that is saved as it was": lambda o: o["place"].save(),
}


def _rename(place: Place) -> None:
    place.key = "renamed"
    place.save()


@pytest.mark.parametrize("change", CHANGES)
def test_a_mirror_follows_each_kind_of_change(mirrors: dict[str, Mirror], tenant_a: Any, change: str) -> None:
    objects = make_objects(tenant_a)
    for mirror in mirrors.values():
        mirror.follow()
        assert mirror.equals_the_list(), mirror.path
    make, seen_in = CHANGES[change]
    with schema_context(tenant_a.schema_name):
        make(objects)
        kinds = set(Change.objects.filter(position=None).values_list("kind", flat=True))
    assert kinds == seen_in
    for mirror in mirrors.values():
        assert mirror.equals_the_list() == (mirror.path not in seen_in), f"{mirror.path} before it is read"
        mirror.follow()
        assert mirror.equals_the_list(), mirror.path


@pytest.mark.parametrize("change", UNSEEN)
def test_what_no_list_shows_is_no_change(mirrors: dict[str, Mirror], tenant_a: Any, change: str) -> None:
    objects = make_objects(tenant_a)
    with schema_context(tenant_a.schema_name):
        before = Change.objects.count()
        UNSEEN[change](objects)
        assert Change.objects.count() == before


def test_a_statement_without_a_search_path_is_recorded(mirrors: dict[str, Mirror], tenant_a: Any) -> None:
    """A listener writes so."""
    device = make_device(tenant_a, "new")
    with schema_context("public"), connection.cursor() as cursor:
        cursor.execute("UPDATE t_alpha.devices_device SET ownership = 'disputed' WHERE id = %s", [device.pk])
    mirrors["devices"].follow()
    assert mirrors["devices"].rows[str(device.uuid)]["ownership"] == "disputed"
    with schema_context("public"), connection.cursor() as cursor:
        cursor.execute("DELETE FROM t_alpha.devices_devicecredential WHERE device_id = %s", [device.pk])
    mirrors["devices"].follow()
    assert mirrors["devices"].rows[str(device.uuid)]["keys"] == []


def test_an_object_that_was_changed_often_comes_once_and_pages_are_followed(
    mirrors: dict[str, Mirror], tenant_a: Any
) -> None:
    mirror = mirrors["places"]
    with schema_context(tenant_a.schema_name):
        for number in range(5):
            Place.objects.create(key=f"p-{number}", name="p")
        for number in range(5):
            Place.objects.filter(key="p-0").update(name=f"name {number}")
    whole = mirror.api.get("places/", changed_since=mirror.cursor).json()
    assert [row["key"] for row in whole["results"]] == ["p-1", "p-2", "p-3", "p-4", "p-0"]
    assert (whole["next"], whole["previous"], whole["removed"]) == (None, None, [])
    assert mirror.follow(limit=3) == 4
    assert mirror.equals_the_list()
    assert mirror.follow() == 1
    assert mirror.api.get("places/", changed_since=mirror.cursor).json()["results"] == []


def test_members_can_be_selected(mirrors: dict[str, Mirror], tenant_a: Any) -> None:
    mirror = mirrors["devices"]
    device = make_device(tenant_a, "new")
    page = mirror.api.get("devices/", changed_since=mirror.cursor, fields="uuid,name").json()
    assert page["results"] == [{"uuid": str(device.uuid), "name": "new"}]


@pytest.mark.parametrize(
    ("query", "member", "text"),
    [
        ({"changed_since": "yesterday"}, "changed_since", "must be 'newest', or the value of the last answer"),
        ({"changed_since": "newest", "status": "ONLINE"}, "status", "cannot be combined with 'changed_since'"),
        ({"changed_since": "newest", "offset": "5"}, "offset", "cannot be combined with 'changed_since'"),
        ({"changed_since": "newest", "attribute.crop": "x"}, "attribute.crop", "cannot be combined"),
        ({"changed_since": "newest", "limit": "0"}, "limit", "from 1 to 1000"),
        ({"changed_since": ""}, "changed_since", ""),
    ],
)
def test_a_request_for_changes_that_is_wrong(api: Api, query: dict[str, str], member: str, text: str) -> None:
    answer = api.get("devices/", **query)
    assert answer.status_code == 400
    assert text in problems(answer)[member]


def test_a_position_belongs_to_its_list_and_tenant(api: Api, tenant_b: Any) -> None:
    cursor = api.get("devices/", changed_since="newest").json()["changed_since"]
    assert api.get("places/", changed_since=cursor).status_code == 400
    other = Api(tenant_b.slug, key=issue_key(tenant_b))
    assert other.get("devices/", changed_since=cursor).status_code == 400


def test_a_client_with_a_selector_follows_only_what_belongs_to_no_device(
    db: None, tenant_a: Any, settings: Any
) -> None:

    settings.MQTT_ADMIN_URL = ""
    client = Api(tenant_a.slug, key=issue_key(tenant_a, selector=Selector(tags=("own",))))
    for path in ("devices", "components", "places", "maintenance-windows"):
        refused = client.get(f"{path}/", changed_since="newest")
        assert (refused.status_code, problem_of(refused)["code"]) == (403, "permission_denied"), path
    for path in ("component-types", "metrics", "units", "hardware-models"):
        assert client.get(f"{path}/", changed_since="newest").status_code == 200, path


# --- retention ---------------------------------------------------------------------------------------------------


def age(tenant: Any, **selected: Any) -> None:
    """Make changes older than they are kept for."""
    with schema_context(tenant.schema_name):
        Change.objects.filter(**selected).update(recorded_at=timezone.now() - timedelta(days=31))


def changes_of(tenant: Any) -> int:
    with schema_context(tenant.schema_name):
        return Change.objects.count()


def test_a_position_before_removed_changes_is_gone(mirrors: dict[str, Mirror], tenant_a: Any) -> None:
    mirror = mirrors["places"]
    with schema_context(tenant_a.schema_name):
        for name in ("a", "b", "c"):
            Place.objects.create(key=name, name=name)
    age(tenant_a)
    with schema_context(tenant_a.schema_name):
        Place.objects.create(key="d", name="d")
        assert object_changes.remove_expired() > 0
    answer = mirror.api.get("places/", changed_since=mirror.cursor)
    assert (answer.status_code, problem_of(answer)["code"]) == (410, "position_dropped")
    again = Mirror(mirror.api, "places")
    assert again.equals_the_list()


def test_a_program_that_has_read_everything_loses_nothing_however_long_nothing_changes(
    mirrors: dict[str, Mirror], tenant_a: Any
) -> None:
    make_objects(tenant_a)
    for mirror in mirrors.values():
        mirror.follow()
    for _ in range(3):
        age(tenant_a)
        with schema_context(tenant_a.schema_name):
            object_changes.remove_expired()
        assert changes_of(tenant_a) == 1
        assert all(mirror.follow() and mirror.equals_the_list() for mirror in mirrors.values())
    with schema_context(tenant_a.schema_name):
        Place.objects.create(key="after-a-long-time", name="p")
        object_changes.remove_expired()
    assert all(mirror.follow() and mirror.equals_the_list() for mirror in mirrors.values())


def test_changes_that_no_program_has_read_are_numbered_before_they_are_removed(
    mirrors: dict[str, Mirror], tenant_a: Any
) -> None:
    """Otherwise the position before them would be the newest one, and seem to miss nothing."""
    mirror = mirrors["places"]
    with schema_context(tenant_a.schema_name):
        Place.objects.create(key="read", name="p")
        mirror.follow()
        Place.objects.create(key="unread", name="p")
        Place.objects.create(key="unread-2", name="p")
        age(tenant_a)
        object_changes.remove_expired()
    assert mirror.api.get("places/", changed_since=mirror.cursor).status_code == 410


def test_a_position_that_a_restored_backup_does_not_have_is_recognized(
    mirrors: dict[str, Mirror], tenant_a: Any
) -> None:
    mirror = mirrors["places"]
    with schema_context(tenant_a.schema_name):
        Place.objects.create(key="lost", name="p")
        mirror.follow()
        # The backup is from before the change; afterwards another change gets its position.
        last = Change.objects.order_by("-position").first()
        assert last is not None
        Change.objects.filter(pk=last.pk).delete()
        answer = mirror.api.get("places/", changed_since=mirror.cursor)
        assert (answer.status_code, problem_of(answer)["code"]) == (410, "feed_restarted")
        Place.objects.filter(key="lost").delete()
    assert Mirror(mirror.api, "places").follow() == 1
    answer = mirror.api.get("places/", changed_since=mirror.cursor)
    assert (answer.status_code, problem_of(answer)["code"]) == (410, "feed_restarted"), "the mark is another one"


# --- several transactions at once ---------------------------------------------------------------------------------


@pytest.fixture
def own_tenant(live_db: None, settings: Any) -> Iterator[Any]:
    settings.MQTT_ADMIN_URL = ""
    tenant = make_tenant("mirror-test")
    yield tenant
    remove_tenant(tenant)


def test_a_transaction_that_commits_late_is_not_passed_by(own_tenant: Any) -> None:
    api = Api(own_tenant.slug, key=issue_key(own_tenant))
    mirror = Mirror(api, "places")
    is_written, may_commit = threading.Event(), threading.Event()

    def write_slowly() -> None:
        try:
            with schema_context(own_tenant.schema_name), transaction.atomic():
                Place.objects.create(key="slow", name="p")
                is_written.set()
                assert may_commit.wait(120)
        finally:
            connection.close()

    thread = threading.Thread(target=write_slowly)
    thread.start()
    assert is_written.wait(120)
    try:
        with schema_context(own_tenant.schema_name):
            # Without `save()`, which waits for the other one.
            Place.objects.bulk_create([Place(key="quick", name="p", path="quick")])
        mirror.follow()
        assert mirror.rows.keys() == {"quick"}
    finally:
        may_commit.set()
        thread.join()
    mirror.follow()
    assert mirror.rows.keys() == {"quick", "slow"}
    assert mirror.equals_the_list()


def test_a_mirror_equals_the_table_beside_many_slow_transactions(own_tenant: Any) -> None:
    """Writers add, change and remove in transactions of several statements, some of which roll back."""
    api = Api(own_tenant.slug, key=issue_key(own_tenant))
    readers = [Mirror(api, "devices") for _ in range(2)]
    failures: list[BaseException] = []
    is_finished = threading.Event()

    def write(number: int) -> None:
        rng = random.Random(number)
        try:
            for round_ in range(25):
                with schema_context(own_tenant.schema_name), transaction.atomic():
                    name = f"{number}-{round_}"
                    Device.objects.bulk_create([Device(name=name), Device(name=f"{name} twin")])
                    time.sleep(rng.random() / 50)
                    Device.objects.filter(name=f"{number}-{round_ - 1}").update(name=f"{number} renamed")
                    if round_ % 3 == 0:
                        Device.objects.filter(name=f"{number}-{round_ - 2} twin").delete()
                    transaction.set_rollback(rng.random() < 0.2)
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            connection.close()

    def read(mirror: Mirror) -> None:
        try:
            while not is_finished.is_set():
                mirror.follow(limit=7)
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            connection.close()

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    reading = [threading.Thread(target=read, args=(mirror,)) for mirror in readers]
    for thread in (*writers, *reading):
        thread.start()
    for thread in writers:
        thread.join()
    is_finished.set()
    for thread in reading:
        thread.join()
    assert failures == []
    for mirror in readers:
        mirror.follow()
        assert len(mirror.rows) > 50
        assert mirror.equals_the_list()
