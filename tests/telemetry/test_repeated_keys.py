"""Repeated keys in a payload: refused with the key's name, found without a second parser for ordinary payloads."""

import json
from contextlib import suppress
from datetime import UTC
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.services.pipeline import form, signature
from telemetry.services.pipeline.results import Refusal
from tests.fuzz import inputs, targets
from tests.payloads import topic, v1, v2

# Colons, quotation marks and escapes are what the cheap check could take for members.
_TEXTS = st.text(alphabet='bc:"\\°{},03', max_size=6)
_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False), _TEXTS
)


class Members(list[tuple[str, Any]]):
    """An object with its members in order, of which some may have the same key."""


_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.lists(st.tuples(_TEXTS, inner), max_size=4).map(Members)),
    max_leaves=12,
)
_OBJECTS = st.lists(st.tuples(_TEXTS, _VALUES), max_size=5).map(Members)


def written(value: Any, **options: Any) -> str:
    """Return the JSON text, with repeated keys."""
    if isinstance(value, Members):
        return "{" + ", ".join(f"{written(key, **options)}: {written(each, **options)}" for key, each in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(each, **options) for each in value) + "]"
    return json.dumps(value, **options)


def has_repeated_key(value: Any) -> bool:
    inner = [each for _, each in value] if isinstance(value, Members) else value if isinstance(value, list) else []
    own = isinstance(value, Members) and len({key for key, _ in value}) < len(value)
    return own or any(map(has_repeated_key, inner))


def is_refused(payload: bytes) -> bool:
    try:
        form.parse_object(payload)
    except Refusal as refusal:
        return refusal.reason == "malformed" and "times in one object" in refusal.detail
    return False


@given(_OBJECTS, st.booleans(), st.booleans())
def test_exactly_repeated_keys_are_refused(members: Members, ascii_only: bool, escaped: bool) -> None:
    text = written(members, ensure_ascii=ascii_only)
    if escaped:
        text = text.replace("c", "\\u0063")
    assert is_refused(text.encode()) is has_repeated_key(members)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 1}',
        '{"a": 1, "\\u0061": 2}',
        '{"a": {"b": [{"c": 1, "c": 2}]}}',
        # As many colons as without the repetition: one of them is escaped.
        '{"a": 1, "a": "\\u003a"}',
        '{"a": 1, "a": "\\u003A"}',
        '{"a": "::", "a": ""}',
        # As many colons as a usual message has of these members.
        '{"timestamp": "", "a": {"timestamp": "1:2"}, "a": 1}',
        '{"value": {"a": 1, "a": 2}, "timestamp": ":"}',
        '{"value": {"a": 1}, "a": 1, "a": {"b": 1}}',
        '{"a": 1, "b": 2, "a": 3}',
    ],
)
def test_a_repeated_key_is_refused_with_its_name(text: str) -> None:
    with pytest.raises(Refusal, match=r"The key '[abc]' occurs 2 times in one object\."):
        form.parse_object(text.encode())


def test_ordinary_payloads_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse_again(*_: Any, **__: Any) -> Any:
        raise AssertionError("the exact check is not needed")

    ordinary = {"timestamp": "2026-11-22T09:30:00+00:00", "value": {"temp": 1e-7, "at": "a:b", "unit": "°C"}}
    device, keys = targets.device(), {1: inputs.SECRET.encode()}.get
    monkeypatch.setattr(form.json, "loads", parse_again)
    for options in ({}, {"ensure_ascii": False}, {"indent": 2}, {"separators": (",", ":")}):
        form.parse_object(json.dumps(ordinary, **options).encode())
    message = json.dumps(inputs.signed_v1(ordinary)).encode()
    assert signature.verify(message, device, keys, targets.NOW.astimezone(UTC)).version == 1


def test_deep_nesting_is_refused() -> None:
    assert form.parse_object(b'{"a":' * 200 + b"1" + b"}" * 200)
    with pytest.raises(Refusal, match="The key 'b' occurs 2 times"):
        form.parse_object(b'{"a":' * 200 + b'{"b":1,"b":2}' + b"}" * 200)
    for depth in (300, 900):
        with pytest.raises(Refusal, match="nested more deeply than 254 levels"):
            form.parse_object(b'{"a":' * depth + b"1" + b"}" * depth)


NESTED = st.recursive(
    st.sampled_from([1, None, "[[", "]", '"{', "\\", '\\"[', "é"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", '{"', "]["]), inner, max_size=3),
    max_leaves=20,
)


@given(NESTED, st.integers(245, 256), st.booleans())
def test_the_nesting_is_that_of_the_parsed_document(value: Any, depth: int, escaped: bool) -> None:
    for _ in range(depth):
        value = [value]
    payload = json.dumps({"a": value, "b": [[]] * 200}, ensure_ascii=escaped).encode()
    try:
        orjson.dumps(orjson.loads(payload))
    except TypeError:
        with pytest.raises(Refusal, match="nested more deeply"):
            form.check_nesting(payload)
    else:
        form.check_nesting(payload)


@pytest.mark.parametrize(
    "payload", [b'"' + b'\\"[' * 20_000, b'["' * 20_000, b'{"a":"\\' + b"[" * 300, b'"[[[' * 20_001]
)
def test_strings_without_an_end_are_no_nesting(payload: bytes) -> None:
    """Each of them would be searched for its end again and again; the parser rejects them."""
    with suppress(Refusal):
        form.check_nesting(payload)
    with pytest.raises(Refusal, match="malformed"):
        form.load_object(payload)


def test_a_signed_message_with_a_second_value_in_front_is_refused(register: Any, send: Any) -> None:
    """Version 1 signs the parsed object: the value that is not evaluated would be in the record, unsigned."""
    from django_tenants.utils import schema_context

    from telemetry.models import Message, Quarantined

    device = register()
    good = v1(device, {"temp": 21.5})
    forged = good.replace(b'"value": {', b'"value": {"temp": 99}, "value": {', 1)
    twice = v2(device, {"temp": 21.5}, seq=1)
    assert forged != good
    will = f"device/lwt/{device.uuid}", b'{"status": "OFFLINE", "session": "a", "session": "b"}'
    send((topic(device), forged), will)
    send((topic(device), good), (topic(device), twice))
    with schema_context(device.tenant.schema_name):
        rows = Quarantined.objects.filter(device=device.device).order_by("detail")
        assert [(row.reason, row.detail) for row in rows] == [
            ("malformed", "The key 'session' occurs 2 times in one object."),
            ("malformed", "The key 'value' occurs 2 times in one object."),
        ]
        assert Message.objects.filter(device=device.device).count() == 2
