"""Lists: several values of a filter, the order of the results, and numbers that are stored as they were sent."""

from typing import Any

import pytest
from django.utils import timezone
from django_tenants.utils import schema_context

from devices.models import Device, DeviceStatus, HardwareModel, Place
from tests.factories import make_device, make_user

from .client import Api, problems


@pytest.fixture
def fleet(tenant_a: Any, db: None) -> dict[str, Any]:
    """Three devices in different places, states and models, with a component each."""
    made = {}
    with schema_context(tenant_a.schema_name):
        farm = Place.objects.create(key="farm", name="farm")
        places = [Place.objects.create(key=f"house-{n}", name="house", kind=f"kind-{n}", parent=farm) for n in range(3)]
        for number, status in enumerate(("ONLINE", "OFFLINE", "TIMEOUT")):
            device = make_device(tenant_a, f"device {number}", **{f"part-{number}": ("dht22", "relay", "pump")[number]})
            model = HardwareModel.objects.create(name="model", version=str(number))
            Device.objects.filter(pk=device.pk).update(
                place=places[number], hardware_model=model, external_id=None if number == 1 else f"x-{number}"
            )
            DeviceStatus.objects.filter(device=device).update(status=status, since=timezone.now())
            made[f"device {number}"] = (device, model)
    return made


def names(api: Api, path: str, member: str = "name", **query: Any) -> list[Any]:
    answer = api.get(path, **query)
    assert answer.status_code == 200, answer.content
    return [row[member] for row in answer.json()["results"]]


def test_a_filter_with_several_values_selects_what_has_any_of_them(api: Api, fleet: dict[str, Any]) -> None:
    assert names(api, "devices/", status=["OFFLINE", "TIMEOUT"]) == ["device 1", "device 2"]
    assert names(api, "devices/", status=["OFFLINE", "TIMEOUT"], place="house-2") == ["device 2"]
    assert names(api, "devices/", place=["house-0", "house-2"]) == ["device 0", "device 2"]
    models = [fleet[name][1].pk for name in ("device 0", "device 1")]
    assert names(api, "devices/", hardware_model=models) == ["device 0", "device 1"]
    assert sorted(names(api, "components/", "key", component_type=["relay", "pump"])) == ["part-1", "part-2"]
    uuids = [str(fleet[name][0].uuid) for name in ("device 0", "device 2")]
    assert sorted(names(api, "components/", "key", device=uuids)) == ["part-0", "part-2"]
    assert names(api, "places/", "key", parent=["farm", "house-0"]) == ["house-0", "house-1", "house-2"]


@pytest.mark.parametrize(
    ("path", "query", "member", "text"),
    [
        ("devices/", {"status": ["ONLINE", "AWAY", "OFFLINE"]}, "status", "OFFLINE, TIMEOUT, not 'AWAY'"),
        ("devices/", {"place": ["farm", "moon"]}, "place", "There is no place with this key"),
        ("devices/", {"hardware_model": ["0", "x"]}, "hardware_model", "There is no hardware model"),
        ("components/", {"device": ["x"]}, "device", "'device' must be a UUID, not 'x'"),
        ("components/", {"component_type": ["relay", "rocket"]}, "component_type", "There is no component type"),
        ("devices/", {"ordering": "size"}, "ordering", "'size' is not a member to order by"),
        ("devices/", {"ordering": "name,-name"}, "ordering", "only once"),
        ("devices/", {"ordering": "name,"}, "ordering", "'' is not a member to order by"),
        ("quarantine/suppressed/", {"ordering": "day"}, "ordering", "not a known parameter"),
    ],
)  # fmt: skip
def test_a_value_that_selects_nothing_possible_is_named(
    api: Api, fleet: dict[str, Any], path: str, query: dict[str, Any], member: str, text: str
) -> None:
    answer = api.get(path, **query)
    assert answer.status_code == 400
    assert text in problems(answer)[member]


def test_an_unknown_device_among_several_is_not_found(api: Api, fleet: dict[str, Any]) -> None:
    unknown = "6d1f6a3e-5f0e-4c53-9d68-0a6f0c8a1f11"
    answer = api.get("components/", device=[str(fleet["device 0"][0].uuid), unknown])
    assert answer.status_code == 404
    assert unknown in problems(answer)[None]


def test_results_are_ordered_by_the_members_that_are_named(api: Api, fleet: dict[str, Any], tenant_a: Any) -> None:
    assert names(api, "devices/", ordering="-name") == ["device 2", "device 1", "device 0"]
    assert names(api, "devices/", ordering="-status,name") == ["device 2", "device 0", "device 1"]
    assert names(api, "devices/", ordering="external_id") == ["device 0", "device 2", "device 1"], "null comes last"
    assert names(api, "devices/", ordering="-external_id") == ["device 2", "device 0", "device 1"], "null comes last"
    assert names(api, "devices/", ordering="-place") == ["device 2", "device 1", "device 0"]
    assert names(api, "components/", "key", ordering="-key") == ["part-2", "part-1", "part-0"]
    assert names(api, "places/", "key", ordering="-path")[:2] == ["house-2", "house-1"]
    admin = Api(tenant_a.slug, user=make_user("an-admin", tenant_a, "admin"))
    assert names(admin, "members/", "username", ordering="role,-username") == ["an-admin", "owner-alpha"]


def test_pages_of_equal_values_repeat_and_lose_nothing(api: Api, fleet: dict[str, Any]) -> None:
    Api.get(api, "devices/")
    pages = [names(api, "hardware-models/", "id", ordering="name", limit=1, offset=n) for n in range(3)]
    listed = names(api, "hardware-models/", "id", ordering="name", limit=3)
    assert [page[0] for page in pages] == listed
    assert len(set(listed)) == 3


# Each view of a list states the columns of its orderings; a wrong one would answer 500.
@pytest.mark.parametrize(
    ("path", "members"),
    [
        ("devices/", "name uuid external_id cpu_serial created_at place status status_changed_at"),
        ("components/", "key device component_type"),
        ("component-types/", "key name"),
        ("metrics/", "key component_type"),
        ("units/", "symbol quantity"),
        ("hardware-models/", "name version"),
        ("places/", "path key name"),
        ("maintenance-windows/", "starts_at ends_at"),
        ("api-keys/", "name created_at expires_at last_used_at"),
        ("members/", "username email role"),
    ],
)
def test_every_ordering_is_one_that_there_is(admin_api: Api, path: str, members: str) -> None:
    for member in members.split():
        assert admin_api.get(path, ordering=f"-{member}").status_code == 200, member
    refusal = problems(admin_api.get(path, ordering="?"))["ordering"]
    assert f"Members: {', '.join(sorted(members.split()))};" in refusal


@pytest.mark.parametrize(
    ("number", "status"),
    [(2**53 - 1, 201), (2**53, 201), (2**53 + 1, 400), (10**22, 201), (10**30 + 1, 400), (0.1, 201)],
)
def test_a_number_of_a_metric_is_stored_as_it_was_sent_or_refused(api: Api, number: float, status: int) -> None:
    made = api.post("component-types/", {"key": "exact", "name": "exact"})
    assert made.status_code == 201
    answer = api.post("metrics/", {"component_type": "exact", "key": "m", "path": "m", "maximum": number})
    assert answer.status_code == status, answer.content
    if status == 201:
        assert answer.json()["maximum"] == number
    else:
        assert "64-bit float" in problems(answer)["maximum"]


@pytest.mark.parametrize("number", [2**53, -(2**53), 2**63, 10**30])
def test_an_attribute_that_is_not_exact_everywhere_is_refused(api: Api, greenhouse: Any, number: int) -> None:
    answer = api.patch(f"devices/{greenhouse.uuid}/", {"attributes": {"count": number}})
    assert answer.status_code == 400
    exact = api.patch(f"devices/{greenhouse.uuid}/", {"attributes": {"count": 2**53 - 1}})
    assert exact.json()["attributes"] == {"count": 2**53 - 1}
