"""Inputs: what devices send, mutated, as bytes and as JSON; the seed alone decides which."""

import base64
import hashlib
import hmac
import json
import random
from pathlib import Path
from typing import Any

LIMIT = 64 * 1024
DATA = Path(__file__).parents[1] / "data"
UUID = "6d1f0f2e-7a7e-4bcd-9d3a-0123456789ab"
GATEWAY = "7e2a1b3c-8b8f-4cde-8e4b-123456789abc"
SECRET = "s3cret-of-the-fuzzed-device"
NOW_TEXT = "2026-11-22T09:30:00+00:00"

_WORDS = [
    "temp",
    "humidity",
    "value",
    "hmac",
    "timestamp",
    "cpu_serial",
    "TempUnit",
    "ON",
    "OFF",
    "F",
    "온도",
    "",
    "\x00",
]
_ODD: list[Any] = [
    0, -0.0, 1e308, -1e308, 1e-320, 2**63, -(2**63), 2**64, 10**30, 1e400, True, False, None, "", "\x00", "\u2028",
    "21.5", "NaN", [], {}, [[]], "x" * 300, 1e11, 99999999999999, NOW_TEXT, "2026-11-22T09:30:00",
    "9999-12-31T23:59:59Z",
]  # fmt: skip
_TOKENS = [
    b"{", b"}", b"[", b"]", b",", b":", b'"', b".", b"\\", b"\\u0000", b"\\ud800", b"null", b"1e999", b"-", b"0",
    b"\xff", b"\xed\xa0\x80", b"\x00", b"NaN", b"Infinity", b"9" * 400, b"[" * 600, b'{"a":' * 600, b" ", b"/", b"+",
]  # fmt: skip


def corpus() -> list[dict[str, Any]]:
    """Objects that devices send."""
    payloads = [case["payload"] for case in json.loads((DATA / "payloads.json").read_text())]
    usual = {"timestamp": NOW_TEXT, "cpu_serial": "c0ffee", "hardware_version": "1.4"}
    versioned = {"device_uuid": UUID, "component": "dht22", "boot": 1, "seq": 1, "gateway": GATEWAY}
    return [{**usual, **versioned, **payload} for payload in payloads] + [
        {
            **usual,
            **versioned,
            "value": {"temp": 21.5, "humidity": 44, "state": "ON", "list": [1, {"t": 2}]},
            "TempUnit": "F",
        },
        {"device_uuid": UUID, "session": "s", "timestamp": NOW_TEXT, "firmware_version": "1"},
    ]


def mutated(rng: random.Random, value: Any, depth: int = 0) -> Any:
    """The value with some of it replaced, removed, repeated or nested."""
    roll = rng.random()
    if roll < 0.08:
        return rng.choice(_ODD)
    if roll < 0.1:
        return [value] * rng.choice((1, 2, 17, 200))
    if roll < 0.12:
        return _nested(rng, value)
    if isinstance(value, dict):
        pairs = [(key, mutated(rng, below, depth + 1)) for key, below in value.items() if rng.random() > 0.04]
        if rng.random() < 0.2:
            name = rng.choice(_WORDS) + rng.choice(("", ".", "/", "~", str(rng.randrange(9))))
            pairs.append((name, mutated(rng, rng.choice(_ODD), depth + 1)))
        if depth == 0 and rng.random() < 0.05:
            pairs += [(f"k{i}", rng.choice(_ODD)) for i in range(rng.choice((70, 2000)))]
        return dict(pairs)
    if isinstance(value, list):
        return [mutated(rng, below, depth + 1) for below in value for _ in range(rng.choice((0, 1, 1, 1, 3)))]
    return value


def as_bytes(rng: random.Random, document: Any) -> bytes:
    """The document as JSON, as devices write it: with or without spaces, escaped or not."""
    text = json.dumps(document, ensure_ascii=rng.random() < 0.7, separators=rng.choice(((",", ":"), (", ", ": "))))
    return text.encode("utf-8", "replace")[:LIMIT]


def torn(rng: random.Random, raw: bytes) -> bytes:
    """The bytes with some changed, removed, repeated, or replaced by what means something."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        roll = rng.random()
        if roll < 0.3 and data:
            data[at % len(data)] = rng.randrange(256)
        elif roll < 0.6:
            data[at:at] = rng.choice(_TOKENS)
        elif roll < 0.8:
            del data[at : at + rng.choice((1, 3, 40))]
        else:
            data[at:at] = data[at : at + 64] * rng.choice((1, 3, 900))
    return bytes(data[:LIMIT])


def signed_v1(document: dict[str, Any]) -> dict[str, Any]:
    """The document with its version 1 signature, as old firmware makes it."""
    body = {key: value for key, value in document.items() if key != "hmac"}
    text = f"{body.get('timestamp')}|{json.dumps(body, sort_keys=True)}"
    digest = hmac.digest(SECRET.encode(), text.encode("utf-8", "surrogatepass"), hashlib.sha256)
    return {**body, "hmac": base64.b64encode(digest).decode()}


def signed_v2(payload: bytes, header: bytes = b'{"alg":"HS256","kid":"1"}') -> bytes:
    """The bytes as a version 2 message."""
    body = _b64(header) + b"." + _b64(payload)
    return body + b"." + _b64(hmac.digest(SECRET.encode(), body, hashlib.sha256))


def topic(rng: random.Random) -> str:
    """A topic, mostly one that could be."""
    parts = rng.choice(
        (
            ["telemetry", "demo", UUID, "dht22"],
            ["device", "birth", UUID],
            ["device", "lwt", UUID],
            ["telemetry", "demo", UUID, "dht22", "status"],
            ["telemetry", "demo", GATEWAY, UUID, "dht22"],
        )
    )
    if rng.random() < 0.5:
        parts = [part for part in parts if rng.random() > 0.1]
        parts.insert(
            rng.randrange(len(parts) + 1),
            rng.choice(("", "+", "#", "$share", UUID.upper(), "{" + UUID + "}", "\x00", "é", "x" * 70)),
        )
    return "/".join(parts)


def _nested(rng: random.Random, value: Any) -> Any:
    for _ in range(rng.choice((3, 12, 400))):
        value = [value] if rng.random() < 0.5 else {rng.choice(_WORDS): value}
    return value


def _b64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def heavy() -> dict[str, bytes]:
    """JSON objects of 64 KiB that are hard on whatever reads them, by what is hard about them."""
    room = LIMIT - 200
    lists: Any = 0
    for _ in range(3):
        lists = [lists] * 16
    start = b'{"timestamp":"' + NOW_TEXT.encode() + b'","cpu_serial":"c0ffee",'
    values = {
        "many members": _join(start, (f'"k{i}":{i % 10}' for i in range(room // 9)), b"}", room),
        "many empty members": _join(start, (f'"{i}":null' for i in range(room // 12)), b"}", room),
        "a long array": start + b'"value":{"list":[' + b",".join([b"1"] * (room // 2 - 30)) + b"]}}",
        "an array of empty arrays": start + b'"v":[' + b",".join([b"[]"] * (room // 3 - 30)) + b"]}",
        "numbers": start + b'"v":[' + b",".join([b"1.2345678901234567e-7"] * (room // 22 - 9)) + b"]}",
        "a long number": start + b'"value":{"temp":' + b"9" * (room - 90) + b"}}",
        "many long numbers": start + b'"v":[' + b",".join([b"9" * 4000] * (room // 4001 - 1)) + b"]}",
        "deep": start + b'"v":' + b"[" * 900 + b"]" * 900 + b"}",
        "too deep": start + b'"v":' + b"[" * (room // 2 - 50) + b"]" * (room // 2 - 50) + b"}",
        "deep objects": start + b'"v":' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}",
        "wide and deep": start + b'"v":' + json.dumps(lists).encode() + b"}",
        "text": start + b'"v":"' + "한".encode() * (room // 3 - 40) + b'"}',
        "escapes": start + b'"v":"' + b"\\u0001" * (room // 6 - 20) + b'"}',
        "a long name": start + b'"' + b"x" * (room - 90) + b'":1}',
        "names with dots": _join(start, (f'"a.{i}/~":1' for i in range(room // 14)), b"}", room),
        "dots": b"." * room,
        "spaces": b" " * room,
    }
    return {name: raw[:LIMIT] for name, raw in values.items()}


def _join(start: bytes, members: Any, end: bytes, room: int) -> bytes:
    body = ",".join(members).encode()
    while len(start) + len(body) + len(end) > room:
        body = body[: body.rindex(b",")]
    return start + body + end
