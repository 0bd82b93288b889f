"""Messages that are broken in every way that was ever seen to stop a parser, a process or a transaction."""

import base64
import hashlib
import hmac
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import uuid4

from .fleet import COMPONENT, Fleet, Sender
from .ledger import Entry, Fate

_RAW: tuple[bytes, ...] = (
    b"",
    b"\x00",
    b"\xff\xfe\x00",
    b"\xc3\x28",
    b"\xef\xbb\xbf{}",
    b"null",
    b"[1, 2, 3]",
    b'"text"',
    b"temperature=21.5",
    b'{"timestamp": "2026-',
    b'{"a": NaN}',
    b'{"a": Infinity}',
    b'{"a": 1e400}',
    b'{"a": "\\ud800"}',
    b'{"a": "\\u0000"}',
    b'{"a": 1}{"a": 2}',
    b"{" * 5000,
    b"[" * 5000 + b"]" * 5000,
    b'{"a": ' * 3000 + b"1" + b"}" * 3000,
    b'{"a": ' + b"9" * 5000 + b"}",
    b"..",
    b"a.b.c",
    b"eyJhbGciOiJub25lIn0.e30.",
    b".".join([b"A" * 100] * 3),
    b" " * (64 * 1024 + 1),
)
_RANDOM = 25

# Members of a good message replaced, signed rightly: what the signature cannot refuse.
_SIGNED: tuple[tuple[str, Fate], ...] = (
    ('{"timestamp": NaN}', "refused"),
    ('{"timestamp": "yesterday"}', "refused"),
    ('{"timestamp": true}', "refused"),
    ('{"timestamp": 1e400}', "refused"),
    ('{"timestamp": -1e300}', "refused"),
    ('{"timestamp": "9999-12-31T23:59:59Z"}', "refused"),
    ('{"timestamp": "0001-01-01T00:00:00+14:00"}', "refused"),
    ('{"timestamp": null}', "refused"),
    ('{"boot": "one"}', "refused"),
    ('{"boot": -1}', "refused"),
    ('{"seq": 9223372036854775808}', "refused"),
    ('{"seq": 1.5}', "refused"),
    ('{"seq": true}', "refused"),
    ('{"device_uuid": 7}', "refused"),
    ('{"component": ["dht22"]}', "refused"),
    ('{"value": {"temp": "warm"}}', "refused"),
    ('{"value": {"temp": 1e308}}', "refused"),
    ('{"value": {"temp": [1]}}', "refused"),
    ('{"value": {"temp": {"$gt": 0}}}', "refused"),
    ('{"value": {"temp": true}}', "refused"),
    ('{"component_type": "\\u0000"}', "refused"),
    ('{"hardware_version": "\\u0000"}', "either"),
    ('{"value": null}', "either"),
    ('{"value": {"temp": null}}', "either"),
    ('{"note": "\\u0000"}', "either"),
)


def corpus(fleet: Fleet, rng: random.Random) -> Iterator[Entry]:
    """Broken messages of the fleet's devices, and of nobody's; none of them is good."""
    one, two = (next(s for s in fleet.senders if s.version == version) for version in (1, 2))
    raw = [*_RAW, *(rng.randbytes(rng.randrange(1, 400)) for _ in range(_RANDOM))]
    for payload in raw:
        for sender in (one, two):
            yield Entry(sender.schema, sender.device_id, sender.topic, payload, None, "refused")
    for text, fate in _SIGNED:
        yield _signed(two, text, fate)
    for topic, schema in _topics(one):
        yield Entry(schema, 0, topic, b'{"of": "nobody"}', None, "refused")


def _topics(sender: Sender) -> Iterator[tuple[str, str]]:
    """Topics that name no device of the platform, with the schema whose quarantine they belong into."""
    yield f"telemetry/{sender.slug}/{uuid4()}/{COMPONENT}", sender.schema
    yield f"telemetry/{sender.slug}/not-a-uuid/{COMPONENT}", sender.schema
    yield f"telemetry/{sender.slug}/{sender.uuid}/{COMPONENT}/and/more/levels", sender.schema
    yield f"telemetry/no-such-tenant/{uuid4()}/{COMPONENT}", ""
    yield "telemetry/x", ""
    yield "telemetry//", ""
    yield "telemetry/\u2028/\U0001f525/\u200b", ""
    yield "device/birth/nobody", ""
    yield f"device/lwt/{uuid4()}", ""


def _signed(sender: Sender, members: str, fate: Fate) -> Entry:
    """A version 2 message with these members in the place of the good ones, whatever JSON they are."""
    sender.seq += 1
    good = {
        "timestamp": datetime.now(UTC).isoformat(),
        "device_uuid": sender.uuid,
        "component": COMPONENT,
        # A boot of its own: a refused message leaves no hole among the good numbers.
        "boot": sender.boot + 1_000_000,
        "seq": sender.seq,
        "value": {"temp": 20.5, "humidity": 50},
    }
    # Not through a parser, which would mend or refuse what is to be sent: the later of two equal names counts.
    text = json.dumps(good)[:-1] + ", " + members[1:]
    kid, secret = sender.key
    header = json.dumps({"alg": "HS256", "kid": kid, "typ": "telemetry+jws"}).encode()
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, text.encode()))
    mac = base64.urlsafe_b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).rstrip(b"=")
    return Entry(sender.schema, sender.device_id, sender.topic, signed + b"." + mac, None, fate, readings=None)
