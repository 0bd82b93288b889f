"""A component's pins: their form, and that two components share none but the lines of a bus."""

import threading
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django_tenants.utils import schema_context
from hypothesis import given
from hypothesis import strategies as st

from devices.domain import pins


@pytest.mark.parametrize("pin", [4, "4", "GPIO4", "gpio 04", "BCM_4", " 4 "])
def test_a_pin_has_one_form(pin: Any) -> None:
    assert pins.normalize({"Data": pin}) == {"data": 4}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "null is not an object"),
        ([4], "not an object"),
        ({"data": True}, "true is not a valid pin"),
        ({"data": -1}, "not a valid pin"),
        ({"data": 1000}, "not a valid pin"),
        ({"data": 4.5}, "not a valid pin"),
        ({"data": ""}, "not a valid pin"),
        ({"data": {"pin": None}}, '{"pin": null} is not a valid pin'),
        ({"": 4}, "not a valid name of a line"),
        ({"a/b": 4}, "not a valid name of a line"),
        ({"data": 4, "DATA": 5}, "only once"),
        ({f"p{n}": n for n in range(41)}, "at most 40"),
    ],
)
def test_what_is_no_pin_is_refused_in_words(value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pins.normalize(value)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.dictionaries(st.text(), v)))
def test_it_never_raises_anything_else_and_its_form_is_stable(value: Any) -> None:
    try:
        found = pins.normalize(value)
    except ValueError:
        return
    assert pins.normalize(found) == found


@pytest.mark.parametrize(
    ("own", "other", "taken"),
    [
        ({"data": 4}, {"data": 4}, 4),
        ({"data": 4}, {"relay": 4}, 4),
        ({"data": "A0"}, {"data": "A0"}, "A0"),
        ({"sda": 2, "scl": 3}, {"sda": 2, "scl": 3}, None),
        ({"sda": 2}, {"scl": 2}, 2),
        ({"mosi": 10, "cs": 8}, {"mosi": 10, "cs": 8}, 8),
        ({"mosi": 10, "cs": 8}, {"mosi": 10, "cs": 7}, None),
        ({"sda": 2}, {"data": 2}, 2),
    ],
)
def test_only_the_lines_of_a_bus_are_shared(own: dict, other: dict, taken: Any) -> None:
    found = pins.find_conflict(own, {"x": other})
    assert found == (None if taken is None else (taken, "x"))


def test_a_component_may_not_take_anothers_pin(register: Any) -> None:
    from devices.models import Component

    device = register(components={"one": "dht22", "two": "dht22", "three": "dht22"})
    with schema_context(device.tenant.schema_name):
        one, two, three = Component.objects.filter(device=device.device).order_by("id")
        one.pins = {"Data": "GPIO4"}
        one.full_clean()
        one.save()
        assert Component.objects.get(pk=one.pk).pins == {"data": 4}
        two.pins = {"data": "4"}
        with pytest.raises(ValidationError, match="The pin 4 is already used by one"):
            two.full_clean()
        two.attached = False
        two.full_clean()
        two.save()
        two.attached = True
        with pytest.raises(ValidationError, match="already used by one"):
            two.save(update_fields=["attached"])
        three.pins = None
        three.full_clean()
        assert three.pins == {}
        three.pins = {"a": 5, "b": 5}
        with pytest.raises(ValidationError, match="Two lines of the component use the pin 5"):
            three.full_clean()


def test_two_at_once_do_not_both_get_it(register: Any) -> None:
    from django.db import connection

    from devices.models import Component

    device = register(components={f"c{n}": "dht22" for n in range(4)})
    barrier, refused = threading.Barrier(4), []

    def take(pk: int) -> None:
        with schema_context(device.tenant.schema_name):
            component = Component.objects.get(pk=pk)
            component.pins = {"data": 4}
            component.full_clean()
            barrier.wait(60)
            try:
                component.save()
            except ValidationError as error:
                refused.append(error)
        connection.close()

    with schema_context(device.tenant.schema_name):
        ids = list(Component.objects.filter(device=device.device).values_list("pk", flat=True))
    threads = [threading.Thread(target=take, args=[pk]) for pk in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 3
    with schema_context(device.tenant.schema_name):
        assert Component.objects.filter(device=device.device).exclude(pins={}).count() == 1
