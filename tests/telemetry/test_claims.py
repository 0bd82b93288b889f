"""Registered claims of JSON Web Tokens, numbers as kid, and newlines behind a token."""

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from devices.domain.metric_spec import MetricSpec
from devices.domain.paths import CLAIMS
from devices.domain.specs import KEEP, QUARANTINE, ComponentSpec
from telemetry.services.pipeline import form, validation
from telemetry.services.pipeline.results import Refusal, ValidatedMessage
from tests.fuzz import targets

SECRET = b"secret of a test"
NOW = datetime(2026, 11, 30, 9, 0, tzinfo=UTC)
TEMPERATURE = MetricSpec("t", ("value", "t"), "number", "°C")
# What `jwt.sign(object, secret, {…})` of a library adds.
LIBRARY = {"iat": 1796029200, "exp": 1796032800, "nbf": 1796029200, "jti": "a-1", "iss": "x", "sub": "y", "aud": ["z"]}


def _encoded(part: dict[str, Any]) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")


def _token(claims: dict[str, Any], kid: Any = "1", **members: Any) -> bytes:
    device = targets.device()
    message = {
        "timestamp": NOW.isoformat(), "cpu_serial": device.cpu_serial, "device_uuid": str(device.uuid),
        "component": "x", "boot": 1, "seq": 1, "value": {"t": 21.5}, **members, **claims,
    }  # fmt: skip
    signed = _encoded({"alg": "HS256", "typ": "JWT", "kid": kid}) + b"." + _encoded(message)
    return signed + b"." + base64.urlsafe_b64encode(hmac.digest(SECRET, signed, hashlib.sha256)).rstrip(b"=")


def _validate(
    payload: bytes, *metrics: MetricSpec, policy: str = KEEP, at: datetime = NOW, topic: str = ""
) -> ValidatedMessage:
    component = ComponentSpec("x", "x", attached=True, allowed=True, metrics=(TEMPERATURE, *metrics), unmapped=policy)
    device = replace(targets.device(), components={"x": component})
    text = topic or f"telemetry/{device.tenant.slug}/{device.uuid}/x"
    return validation.validate(
        form.parse_topic(text), text, payload, device, {1: SECRET}.get, at, targets.CLOCK
    )  # fmt: skip


@pytest.mark.parametrize("policy", [KEEP, QUARANTINE])
def test_claims_of_a_library_are_not_values(policy: str) -> None:
    message = _validate(_token(LIBRARY), policy=policy)
    assert [value.metric for value in message.measurements] == ["t"]
    assert (message.unmapped, message.cut) == ([], False)


@pytest.mark.parametrize("claim", sorted(CLAIMS))
def test_a_claim_is_a_value_inside_another_object_or_with_a_metric(claim: str) -> None:
    inside = _validate(_token({}, value={"t": 1, claim: 7}))
    assert [value.metric for value in inside.unmapped] == [f"value.{claim}"]
    metric = MetricSpec("own", (claim,), "number", "")
    assert {value.metric: value.value for value in _validate(_token({claim: 7}), metric).measurements} == {
        "t": 21.5,
        "own": 7.0,
    }


def _stamp(**ago: float) -> int:
    return int((NOW + timedelta(**ago)).timestamp())


@pytest.mark.parametrize(
    "claims",
    [{"exp": _stamp(hours=1)}, {"exp": _stamp(seconds=1) + 0.5}, {"exp": _stamp(minutes=-4)}, {"nbf": _stamp(hours=-1)},
     {"nbf": _stamp(minutes=4)}, {"exp": _stamp(hours=1) * 1000}],
)  # fmt: skip
def test_a_token_is_valid_within_its_times(claims: dict[str, Any]) -> None:
    assert _validate(_token(claims)).measurements
    birth = f"device/birth/{targets.device().uuid}"
    assert _validate(_token(claims), topic=birth).session == ""


@pytest.mark.parametrize(
    ("claims", "reason", "text"),
    [
        ({"exp": _stamp(minutes=-5)}, "past_timestamp", "exp of the token, 2026-11-30T08:55:00+00:00, is before its"),
        ({"exp": 0}, "past_timestamp", "1970-01-01T00:00:00+00:00"),
        ({"nbf": _stamp(minutes=6)}, "future_timestamp", "nbf of the token, 2026-11-30T09:06:00+00:00, is after its"),
        ({"exp": "soon"}, "malformed", "exp must be a Unix time as a number, not the string 'soon'"),
        ({"exp": NOW.isoformat()}, "malformed", "exp must be a Unix time"),
        ({"nbf": True}, "malformed", "nbf must be a Unix time as a number, not true"),
        ({"nbf": None}, "malformed", "nbf must be a Unix time as a number, not null"),
        ({"exp": 1e300}, "malformed", "exp must be a Unix time"),
    ],
)
def test_a_token_outside_of_its_times_is_refused(claims: dict[str, Any], reason: str, text: str) -> None:
    for topic in ("", f"device/birth/{targets.device().uuid}"):
        with pytest.raises(Refusal) as refusal:
            _validate(_token(claims), topic=topic)
        assert refusal.value.reason == reason
        assert text in refusal.value.detail


def test_a_late_token_that_has_not_expired_is_stored() -> None:
    payload = _token({"exp": _stamp(days=2)})
    assert _validate(payload, at=NOW + timedelta(days=1)).late
    with pytest.raises(Refusal, match="past_timestamp"):
        _validate(payload, at=NOW + timedelta(days=3))


@pytest.mark.parametrize("kid", ["1", 1])
def test_the_kid_may_be_a_number(kid: Any) -> None:
    assert _validate(_token({}, kid)).key_version == 1


@pytest.mark.parametrize("kid", [True, 1.0, None, [1], {"1": 1}, ""])
def test_other_kids_are_refused(kid: Any) -> None:
    with pytest.raises(Refusal, match="bad_signature"):
        _validate(_token({}, kid))


def test_a_number_that_is_not_a_key_is_named() -> None:
    with pytest.raises(Refusal, match="The device has no key '7'"):
        _validate(_token({}, 7))


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b" ", b"\t"])
def test_a_newline_behind_a_token_is_named(end: bytes) -> None:
    with pytest.raises(Refusal, match="must not end with a newline or blank") as refusal:
        _validate(_token({}) + end)
    assert refusal.value.reason == "bad_signature"
