"""The details of refusals: in the words of JSON, and with what the sender must change."""

import base64
import gzip
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from devices.domain import entry_lists
from devices.domain.metric_spec import MetricSpec
from devices.domain.specs import ComponentSpec
from telemetry.services.pipeline import contract, form, signature, signature_faults, validation, wills
from telemetry.services.pipeline.normalization import normalize, read_timestamp
from telemetry.services.pipeline.results import Refusal
from telemetry.services.pipeline.times import read_time
from tests.fuzz import inputs, targets

SECRET = inputs.SECRET
NOW = targets.NOW.astimezone(UTC)
# A second of its own for each message: diagnoses are limited by the second.
_seconds = iter(range(1_000_000))


def refusal(call: Callable[[], Any]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        call()
    return caught.value


def detail(call: Callable[[], Any]) -> str:
    return refusal(call).detail


def verified(payload: bytes, at: datetime | None = None) -> signature.SignedMessage:
    at = at or NOW + timedelta(seconds=next(_seconds))
    return signature.verify(payload, targets.device(), targets.key, at)


# --- the words of JSON ----------------------------------------------------------------------------------------


def _metric(kind: str, **values: Any) -> ComponentSpec:
    metric = MetricSpec("m", ("value", "m"), kind, values.pop("unit", ""), **values)
    return ComponentSpec("x", "x", True, True, (metric,))


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("text", 204, "expected a string, got the number 204"),
        ("text", True, "expected a string, got true"),
        ("number", [], "expected a number, got an empty array"),
        ("number", {"a": 1}, "expected a number, got an object"),
        ("number", "abc", "expected a number, got the string 'abc'"),
        ("number", False, "expected a number, got false"),
        ("boolean", 2, "got the number 2"),
        ("boolean", [1], "got an array"),
    ],
)
def test_types_are_those_of_json(kind: str, value: Any, words: str) -> None:
    found = detail(lambda: normalize({"value": {"m": value}}, _metric(kind)))
    assert words in found
    assert not any(word in found for word in ("True", "False", "None", "list", "dict", "int", "str "))


@pytest.mark.parametrize(
    ("values", "value", "words"),
    [
        ({"maximum": 0.0}, 0.5, "m at value.m: 0.5 °C is outside the valid range, at most 0 °C."),
        ({"minimum": -40.0}, -127, "-127 °C is outside the valid range, at least -40 °C."),
        ({"minimum": -40.0, "maximum": 80.0}, 85, "85 °C is outside the valid range, -40 to 80 °C."),
        # The value and the bound do not look alike.
        ({"maximum": 100.0}, 100.000001, "100.000001 °C is outside the valid range, at most 100 °C."),
        ({"maximum": 100.0, "unit": ""}, 101, "101 is outside the valid range, at most 100."),
    ],
)
def test_a_range_names_the_bounds_that_it_has(values: dict[str, Any], value: float, words: str) -> None:
    values.setdefault("unit", "°C")
    assert words in detail(lambda: normalize({"value": {"m": value}}, _metric("number", **values)))


@pytest.mark.parametrize("document", ["[1]", '"text"', "7", "null", "true"])
def test_what_is_not_an_object_is_named(document: str) -> None:
    found = detail(lambda: form.parse_object(document.encode()))
    assert "must be a JSON object, not " in found
    assert found.rpartition("not ")[2].rstrip(".") in (
        "an array", "the string 'text'", "the number 7", "null", "true"
    )  # fmt: skip


# --- registered texts and numbers -----------------------------------------------------------------------------


def _board(version: Any, registered: str) -> None:
    spec = replace(targets.device(), hardware_version=registered, cpu_serial="")
    contract.check_board({"hardware_version": version}, spec)


@pytest.mark.parametrize(("version", "registered"), [(1, "1"), (1.4, "1.4"), ("1", "1"), (20, "20"), (-3, "-3")])
def test_a_number_is_the_text_that_is_registered(version: Any, registered: str) -> None:
    _board(version, registered)
    contract.check_board({"cpu_serial": version}, replace(targets.device(), cpu_serial=registered))


@pytest.mark.parametrize(
    ("version", "registered", "words"),
    [
        (1, "2", "must be '2', as registered, not the number 1. Choose"),
        (1.1, "1.10", "not the number 1.1. Send it as a string"),
        (True, "1", "not true"),
        ("REV a", "rev A", "differs only in capital letters"),
        (" 1.4", "1.4", "differs only in blanks at its ends"),
        ([1], "1", "not an array"),
    ],
)
def test_another_version_is_named_with_its_type(version: Any, registered: str, words: str) -> None:
    found = refusal(lambda: _board(version, registered))
    assert found.reason == "hardware_version_mismatch"
    assert words in found.detail


@pytest.mark.parametrize(
    ("serial", "words"),
    [
        ("C0FFEE", "differs only in capital letters"),
        (12, "the board the number 12"),
        ("other", "The SD card may have been moved"),
        (None, "it has none"),
    ],
)
def test_another_board_is_named_with_what_differs(serial: Any, words: str) -> None:
    assert words in detail(lambda: contract.check_board({"cpu_serial": serial}, targets.device()))


# --- times ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1795958635712210, "the number 1795958635712210: it is in microseconds. Send seconds or milliseconds"),
        (1795958635712209920, "it is in nanoseconds. Send seconds or milliseconds"),
        (1.8e18, "it is in nanoseconds"),
        (10**30, "outside of the years 1 to 9999"),
        (-(10**15), "outside of the years 1 to 9999"),
        ("1795958635", "it is a Unix time in a string. Send it as a number, without quotes"),
        ("1795958635712", "it is a Unix time in a string"),
        ("1795958635.5", "it is a Unix time in a string"),
        ("17959586", "it is a Unix time in a string"),
        ("2026-11-30T13:00:60Z", "leap second"),
        ("2026-11-30T24:30:00Z", "hour 24 is hour 0 of the next day"),
        ("2026-11-30T13:00:00+09:00[Asia/Seoul]", "the zone must be an offset"),
        ("2026-11-30T13:00:00 UTC", "the zone must be an offset"),
        ("30.11.2026 13:00", "year, month and day with - between them"),
        ("2026/11/30 13:00", "year, month and day with - between them"),
        (" 2026-11-30T13:00:00Z", "blanks at its ends"),
        ("2026-11-30T13:00:00", "it must have an offset, for example Z or +00:00"),
        ("yesterday", "the string 'yesterday': it must be ISO 8601"),
        ([], "not an empty array"),
        (True, "not true"),
        ("9" * 100_000, "too long for a time"),
    ],
)
def test_a_time_says_what_to_send(value: Any, words: str) -> None:
    found = refusal(lambda: read_timestamp(value))
    assert found.reason == "malformed"
    assert words in found.detail
    assert not any(word in found.detail for word in ("isoformat", "month must be", "Python", "date value"))


# --- payloads that are not JSON -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"T=21.5 H=44.0", "begins with 'T=21.5 H=44.0', which is not a JSON object"),
        (b"T=21.5", "begins with 'T=21.5'"),
        (b"a=1.0 b=2.0 c=3.0", "which is not a JSON object"),
        (b"weather,site=1 t=21.5,h=44.1 1795958635", "begins with 'weather,site=1 t…'"),
        ('{"unit": "°C"}'.encode("latin-1"), "byte 11 (0xB0) is not UTF-8 ('°' in Latin-1"),
        ('{"이름": "온도계"}'.encode("cp949"), "in CP949"),
        ('{"t": 1}'.encode("utf-16"), "UTF-16"),
        ('{"t": 1}'.encode("utf-16-le"), "UTF-16"),
        (b'\xef\xbb\xbf{"t": 1}', "byte order mark"),
        (gzip.compress(b'{"t": 1}', mtime=0), "compressed with gzip"),
        (b"\xa1\x61t\xfb\x40\x35\x80\x00\x00\x00\x00\x00", "binary"),
        (b'{"t": 1}\x00', "ends with a NUL byte"),
        (b'{"t": nan}', "JSON does not have nan. Write null"),
        (b'{"t": -Infinity}', "JSON does not have -Infinity. Write null"),
        (b'{"on": True}', "JSON does not have True. Write true"),
        (b'{"t": None}', "JSON does not have None. Write null"),
        (b"{'t': 1}", "double quotes"),
        (b"{temperature:25}", "the name temperature must be in double quotes"),
        (b'{"t": 21,5}', "21,5 has a decimal comma"),
        (b'{"id": 007}', "the number 007 must not begin with 0"),
        (b'{"t": .5}', "the number .5 must have digits before and after its point"),
        (b'{"t": +5}', "no plus sign"),
        (b'{"t": 1,}', "comma before a closing bracket"),
        (b'{"t": {"a": 1', "it ends in the middle"),
        (b"", "it is empty"),
        (b" \n", "it is empty"),
    ],
)
def test_what_is_not_json_says_what_it_is(payload: bytes, words: str) -> None:
    found = refusal(lambda: verified(payload))
    assert found.reason == "malformed"
    assert words in found.detail
    assert "surrogates" not in found.detail
    assert "base64" not in found.detail


def test_a_fault_is_found_outside_of_strings_only() -> None:
    """Words, quotes and numbers within a string are not those of the fault."""
    found = detail(lambda: form.parse_object(b'{"text": "None, \'x\' 007 nan \\" ", "t": 1,}'))
    assert "comma before a closing bracket" in found


@pytest.mark.parametrize("piece", [b'"', b'\\"', b'{"a', b", ", b": 1,", b"[", b"'", b"nan ", b"0", b" ", b"\\"])
def test_a_payload_of_one_repeated_piece_is_described(piece: bytes) -> None:
    payload = b"{" + piece * (64_000 // len(piece))
    with pytest.raises(Refusal):
        form.parse_object(payload)


# --- version 2 ------------------------------------------------------------------------------------------------


def _b64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _token(mac: Callable[[bytes], bytes], secret: bytes = SECRET.encode(), content: bytes = b'{"a": 1}') -> bytes:
    signed = _b64(b'{"alg":"HS256","kid":"1"}') + b"." + _b64(content)
    return signed + b"." + mac(hmac.digest(secret, signed, "sha256"))


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (_token(lambda mac: mac.hex().encode()), "in hexadecimal instead of base64url"),
        (_token(base64.urlsafe_b64encode), "with = at its end"),
        (_token(lambda mac: base64.b64encode(b"\xff" * 32)), ""),
        (_token(_b64, base64.urlsafe_b64decode(SECRET + "=" * (-len(SECRET) % 4))), "secret decoded from base64"),
        (_token(_b64, SECRET.encode() + b"\n"), "with a line end after the secret"),
        (_token(_b64, b"wrong"), ""),
    ],
)
def test_a_mistake_in_a_token_is_named(token: bytes, words: str) -> None:
    found = refusal(lambda: verified(token))
    assert found.reason == "bad_signature"
    assert "the signature does not match" in found.detail
    assert words in found.detail
    assert ("The sender makes it" in found.detail) is bool(words)


@pytest.mark.parametrize("payload", [b"21.5.3", b"a.b.c", b"..", b"=.=.="])
def test_letters_of_a_token_without_a_header_are_named_as_both(payload: bytes) -> None:
    found = refusal(lambda: verified(payload))
    assert found.reason == "bad_signature"
    assert found.detail.startswith("Version 2: the header must be ")
    assert found.detail.endswith("A payload that is not a token must be a JSON object.")
    assert not any(word in found.detail for word in ("Discontinuous", "padding not", "Incorrect"))


def test_the_object_in_a_token_is_named_as_such() -> None:
    assert "The signed object must be a JSON object in UTF-8" in detail(
        lambda: verified(_token(_b64, content=b"{temp: 1}"))
    )


# --- version 1 ------------------------------------------------------------------------------------------------

MESSAGE = {"timestamp": "2026-11-30T09:00:00Z", "value": {"temp": 21.5, "name": "온도"}, "cpu_serial": "c0ffee"}


def _v1(
    text: Callable[[dict[str, Any]], str] = lambda message: f"{message['timestamp']}|{_canonical(message)}",
    encode: Callable[[bytes], str] = lambda mac: base64.b64encode(mac).decode(),
    secret: bytes = SECRET.encode(),
    message: dict[str, Any] = MESSAGE,
) -> bytes:
    mac = hmac.new(secret, text(message).encode(), hashlib.sha256).digest()
    return json.dumps({**message, "hmac": encode(mac)}).encode()


def _canonical(message: Any, **how: Any) -> str:
    return json.dumps(message, sort_keys=True, **how)


def _raw(text: str) -> bytes:
    """A message that is sent as the text that is signed, whatever Python makes of it."""
    time = json.loads(text)["timestamp"]
    mac = hmac.digest(SECRET.encode(), f"{time}|{text}".encode(), "sha256")
    return f'{text[:-1]}, "hmac": "{base64.b64encode(mac).decode()}"}}'.encode()


def test_the_canonical_text_is_accepted() -> None:
    assert verified(_v1()).version == 1


MISTAKES: list[tuple[bytes, str]] = [
    (_v1(encode=lambda mac: mac.hex()), "in hexadecimal instead of base64"),
    (_v1(encode=lambda mac: mac.hex().upper()), "in hexadecimal instead of base64"),
    (_v1(encode=lambda mac: base64.b64encode(mac.hex().encode()).decode()), "in base64 of the hexadecimal text"),
    (_v1(encode=lambda mac: base64.b64encode(mac).decode().rstrip("=")), "without the = at the end"),
    (_v1(encode=lambda mac: base64.b64encode(mac).decode() + "\n"), "with blanks or a line end around it"),
    (_v1(encode=lambda mac: str(base64.b64encode(mac))), "as Python prints bytes"),
    (_v1(lambda m: f"{m['timestamp']}|{_canonical(m, separators=(',', ':'))}"), "without a space after each comma"),
    (_v1(lambda m: f"{m['timestamp']}|{json.dumps(m)}"), "in the order of the message instead of sorted"),
    (_v1(lambda m: f"{m['timestamp']}|{_canonical(m, ensure_ascii=False)}"), "characters beyond ASCII as they are"),
    (_v1(lambda m: f"{m['timestamp']}|{json.dumps(m, separators=(',', ':'))}"), "sorted by name, and without a space"),
    (_v1(_canonical), "without the timestamp and the bar"),
    (_v1(lambda m: f"{m['timestamp']}{_canonical(m)}"), "without the bar after the timestamp"),
    (_v1(lambda m: f"{m['timestamp']}|{_canonical(m)}\n"), "with a line end after the signed text"),
    (_v1(lambda m: f"{m['timestamp']}|{_canonical({**m, 'hmac': ''})}"), "with the member hmac in the signed object"),
    (_v1(secret=SECRET.encode() + b"\n"), "with a line end after the secret"),
    (_v1(secret=base64.urlsafe_b64decode(SECRET + "=" * (-len(SECRET) % 4))), "the secret decoded from base64"),
    (_raw('{"cpu_serial": "c0ffee", "timestamp": "2026-11-30T09:00:00Z", "value": {"t": 21.50}}'), "'21.50"),
    (_raw('{"cpu_serial": "c0ffee", "timestamp": "2026-11-30T09:00:00Z", "value": {"t": 1e-7}}'), "'1e-7"),
    (_raw('{"cpu_serial": "c0ffee", "timestamp": "2026-11-30T09:00:00Z", "value": {"t": 2.15e+01}}'), "2.15e+01"),
    (_raw('{"cpu_serial": "c0ffee", "timestamp": "2026-11-30T09:00:00Z", "value": {"t": "a\\/b"}}'), "\\/b"),
    (_raw('{"cpu_serial":"c0ffee","timestamp":"2026-11-30T09:00:00Z","value":{"t":"° 1.0"}}'), "beyond ASCII"),
]


@pytest.mark.parametrize(("payload", "words"), MISTAKES, ids=[words for _, words in MISTAKES])
def test_a_mistake_in_version_1_is_named_and_not_accepted(payload: bytes, words: str) -> None:
    found = refusal(lambda: verified(payload))
    assert found.reason == "bad_signature"
    assert found.detail.startswith("The hmac does not match under any valid key of the device (tried: 2, 1).")
    assert "The sender makes it " in found.detail
    assert words in found.detail


def test_base64url_is_named() -> None:
    payload = next(
        made
        for number in range(99)
        if set("-_") & set(json.loads(made := _v1(encode=_url, message={**MESSAGE, "n": number}))["hmac"])
    )
    assert "in base64url instead of base64" in detail(lambda: verified(payload))


def _url(mac: bytes) -> str:
    return base64.urlsafe_b64encode(mac).decode()


def test_a_wrong_key_or_a_changed_message_has_no_explanation() -> None:
    assert detail(lambda: verified(_v1(secret=b"another"))).endswith("(tried: 2, 1).")
    assert detail(lambda: verified(_v1().replace(b"21.5", b"21.6"))).endswith("(tried: 2, 1).")
    assert "the base64 of 32 bytes" in detail(lambda: verified(b'{"timestamp": 1, "hmac": "AAAA"}'))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({}, "must have the member hmac with the version 1 signature."),
        ({"hmac": 7}, "a string, not the number 7"),
        ({"hmac": None}, "a string, not null"),
        ({"HMAC": "x"}, "it has 'HMAC'"),
        ({"signature": "x"}, "it has 'signature'"),
    ],
)
def test_a_missing_hmac_is_named(message: dict[str, Any], words: str) -> None:
    assert words in detail(lambda: verified(json.dumps({"timestamp": 1, **message}).encode()))


def test_diagnoses_are_bounded_by_device_second_and_size() -> None:
    budget = signature_faults.DiagnosisBudget(3)
    assert [budget.take(device, NOW) for device in (1, 1, 2, 3, 4)] == [True, False, True, True, False]
    assert budget.take(1, NOW + timedelta(seconds=1))
    at = NOW + timedelta(days=1)
    payload = _v1(encode=lambda mac: mac.hex())
    assert "hexadecimal" in detail(lambda: verified(payload, at))
    assert detail(lambda: verified(payload, at)).endswith("(tried: 2, 1)."), "the second one of this second"
    large = _v1(encode=lambda mac: mac.hex(), message={**MESSAGE, "x": "y" * 5000})
    assert detail(lambda: verified(large)).endswith("(tried: 2, 1).")


@pytest.mark.parametrize(
    ("member", "value", "words"),
    [
        ("device_uuid", None, "not null"),
        ("component", 7, "not the number 7"),
        ("boot", "3", "boot must be a whole number from 0 in version 2, not the string '3'"),
        ("seq", True, "not true"),
        ("seq", 1.5, "not the number 1.5"),
    ],
)
def test_signed_members_are_named_with_their_types(member: str, value: Any, words: str) -> None:
    topic = targets.TOPICS[0]
    message = {"device_uuid": topic.device, "component": topic.component, "boot": 1, "seq": 1, member: value}
    assert words in detail(lambda: contract.check_binding(topic, message))


def test_a_session_is_named_with_its_type() -> None:
    payload = json.dumps({"status": "OFFLINE", "session": 7}).encode()
    found = detail(
        lambda: validation.validate(
            targets.TOPICS[2], "a topic", payload, targets.device(), targets.key, NOW, targets.CLOCK
        )
    )
    assert "not the number 7" in found


@pytest.mark.parametrize("stamp", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-01:00"])
@pytest.mark.parametrize("read", [read_timestamp, lambda stamp: read_time(stamp, entry_lists.ISO, "")])
def test_a_time_that_is_out_of_range_in_utc_says_so(read: Any, stamp: str) -> None:
    assert detail(lambda: read(stamp)).endswith(": in UTC it is outside of the years 1 to 9999.")


def test_a_time_of_an_entry_is_described_without_the_words_of_python() -> None:
    text = detail(lambda: read_time("2026-13-01T00:00:00Z", entry_lists.ISO, ""))
    assert text.endswith("cannot be read: it must be ISO 8601 such as 2026-11-30T09:00:00Z.")
    text = detail(lambda: read_time("2026-11-30T09:00:00", entry_lists.ISO, ""))
    assert text.endswith("cannot be read: it has no offset, and the component type no time zone.")


@pytest.mark.parametrize(
    ("members", "shown"), [({}, "null"), ({"gateway": True}, "true"), ({"gateway": 5}, "the number 5")]
)
def test_the_gateway_of_a_message_is_quoted_in_the_words_of_json(members: dict[str, Any], shown: str) -> None:
    uuid = "6d1f2a52-6a9e-4a55-9d68-0a6f0c8a1f11"
    topic = form.parse_topic(f"telemetry/demo/{uuid}/6d1f2a52-6a9e-4a55-9d68-0a6f0c8a1f12/dht22")
    text = detail(lambda: contract.check_gateway(topic, members, 2))
    assert text == f"The signed gateway must be the topic's, {uuid}, not {shown}."


def test_the_refusal_of_a_will_quotes_what_was_sent() -> None:
    topic = form.parse_topic("device/lwt/6d1f2a52-6a9e-4a55-9d68-0a6f0c8a1f11")
    assert "not the text 'Offline'" in detail(lambda: wills.parse_will(topic, b"Offline", text_wills=False))
    assert ", not 'OnLine'. " in detail(lambda: wills.parse_will(topic, b"OnLine", text_wills=True))
