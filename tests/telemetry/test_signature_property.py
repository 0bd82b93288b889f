"""The coverage of signatures: every byte of a version 2 message, and everything that a version 1 message says.

Version 1 signs what the message says, not its bytes: other spaces, another order of the members, another spelling of
a number or a letter are the same message. So a changed version 1 message is taken only where it says the same.
"""

import json
from collections.abc import Iterator
from datetime import UTC
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.domain.specs import IGNORE
from telemetry.services.pipeline import form, validation
from telemetry.services.pipeline.results import Refusal
from tests.fuzz import inputs, targets

_SPEC = targets.device(IGNORE)
_TOPIC = form.parse_topic(f"telemetry/demo/{inputs.UUID}/dht22")
_MESSAGE = {
    "timestamp": inputs.NOW_TEXT,
    "cpu_serial": "c0ffee",
    "device_uuid": inputs.UUID,
    "component": "dht22",
    "boot": 7,
    "seq": 1,
    "value": {"humidity": 44, "big": 12345678901234567890123, "text": "한 °C\n", "small": 1e-7},
}


def _is_taken(raw: bytes) -> bool:
    try:
        accepted = validation.validate(
            _TOPIC, "a topic", raw, _SPEC, targets.key, targets.NOW.astimezone(UTC), targets.CLOCK
        )
    except Refusal:
        return False
    return accepted.signature in (1, 2)


def _one_byte_changes(raw: bytes) -> Iterator[bytes]:
    for at in range(len(raw) + 1):
        for byte in {0x00, 0x20, 0x30, 0x41, 0x7D, 0xFF, *((raw[at] ^ 1, raw[at] ^ 0x20) if at < len(raw) else ())}:
            yield raw[:at] + bytes([byte]) + raw[at:]
            if at < len(raw) and byte != raw[at]:
                yield raw[:at] + bytes([byte]) + raw[at + 1 :]
        if at < len(raw):
            yield raw[:at] + raw[at + 1 :]


def _says(raw: bytes) -> Any:
    """What the message says, with its signature: the text of it, so that 1, 1.0 and true are not the same."""
    try:
        return json.dumps(json.loads(raw), sort_keys=True)
    except (ValueError, RecursionError):
        return None


def test_version_2_refuses_every_change_of_a_byte() -> None:
    token = inputs.signed_v2(json.dumps(_MESSAGE).encode())
    assert _is_taken(token)
    assert [changed for changed in _one_byte_changes(token) if _is_taken(changed)] == []


@pytest.mark.parametrize("ascii_only", [True, False])
def test_version_1_refuses_every_change_of_a_byte_that_changes_what_is_said(ascii_only: bool) -> None:
    raw = json.dumps(inputs.signed_v1(_MESSAGE), ensure_ascii=ascii_only).encode()
    assert _is_taken(raw)
    taken = [changed for changed in _one_byte_changes(raw) if _is_taken(changed)]
    assert {_says(changed) for changed in taken} == {_says(raw)}
    assert taken, "a space more between the members is the same message"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=6), _JSON, max_size=4), st.data())
def test_version_1_takes_any_message_that_is_signed_and_none_that_says_something_else(
    members: dict[str, Any], data: Any
) -> None:
    usual = {"timestamp": inputs.NOW_TEXT, "cpu_serial": "c0ffee"}
    reserved = ("hmac", "hardware_version", "component_type", "instance_name", "value", "AM2301", "temp.x", "TempUnit")
    message = {**members, **usual}
    message = {name: value for name, value in message.items() if name not in reserved}
    signed = inputs.signed_v1(message)
    assert _is_taken(json.dumps(signed, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "replace"))
    name = data.draw(st.sampled_from(sorted(signed)))
    changed = {**signed, name: data.draw(_JSON)}
    if _says(json.dumps(changed).encode()) != _says(json.dumps(signed).encode()):
        assert not _is_taken(json.dumps(changed).encode())
