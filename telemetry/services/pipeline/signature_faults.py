"""Mistakes in signatures: which one a sender made, found by trying the usual ones. Pure.

A message is refused before it comes here, and stays so: the result only says what to correct. A match needs the
device's key, so a sender without it learns nothing. The work is bounded by the payload's size, and by a number of
messages a second in a process.
"""

import binascii
import hmac
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from hashlib import sha256
from itertools import product
from typing import Any, NamedTuple

_MAX_BYTES = 4096
_MAX_KEYS = 2
_DIGEST_BYTES = 32
_HEX = re.compile(r"[0-9A-Fa-f]{64}")
_FROM_URL = bytes.maketrans(b"-_", b"+/")
_STRING = r'"(?:[^"\\]|\\.)*"'
_HMAC_MEMBER = re.compile(rf'"hmac"\s*:\s*{_STRING}\s*')
_TIMESTAMP = re.compile(r'"timestamp"\s*:\s*("(?:[^"\\]|\\.)*"|[^,}\s]+)')
_EXCERPT = 12


class Fault(NamedTuple):
    """Bytes to try, and the mistake that they stand for; empty for what the protocol requires."""

    value: bytes
    mistake: str


class DiagnosisBudget:
    """The number of messages that are diagnosed in a second: so many, and one of each device.

    A device that sends wrong signatures all the time must not cost more than one that sends right ones.
    """

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._second = 0.0
        self._devices: set[int] = set()

    def take(self, device: int, now: datetime) -> bool:
        """Return whether a message of the device, received at `now`, is diagnosed."""
        second = now.timestamp() // 1
        if second != self._second:
            self._second = second
            self._devices.clear()
        if device in self._devices or len(self._devices) >= self._per_second:
            return False
        self._devices.add(device)
        return True


# 1 to 5 ms each.
budget = DiagnosisBudget(5)


def explain_v1(message: dict[str, Any], payload: bytes, secrets: Sequence[bytes]) -> str:
    """Return a sentence on how a refused version 1 signature was made; empty if no usual mistake explains it."""
    if len(payload) > _MAX_BYTES or not isinstance(given := message.get("hmac"), str):
        return ""
    signatures = list(_signatures(given, is_url=False))
    if not signatures:
        return " An hmac is the base64 of 32 bytes: 44 characters, of which the last one is =."
    try:
        texts = [Fault(text, mistake) for text, mistake in _texts_v1(message, payload.decode())]
    except (ValueError, RecursionError):  # not the text that a person writes
        return ""
    return _sentence(_match(signatures, texts, secrets))


def explain_v2(token: bytes, secrets: Sequence[bytes]) -> str:
    """Return a sentence on how the refused signature of a token was made; empty if no usual mistake explains it."""
    if len(token) > _MAX_BYTES:
        return ""
    signed, _, signature = token.rpartition(b".")
    payload = signed.partition(b".")[2]
    texts = [
        Fault(signed, ""),
        Fault(signed + b"\n", "with a line end after the signed text"),
        Fault(payload, "over the second part alone"),
    ]
    with suppress(binascii.Error):
        decoded = binascii.a2b_base64(payload.translate(_FROM_URL) + b"==")
        texts.append(Fault(decoded, "over the object before its encoding"))
    return _sentence(_match(list(_signatures(signature.decode("latin-1"), is_url=True)), texts, secrets))


def _sentence(mistakes: str) -> str:
    return f" The sender makes it {mistakes}. Correct that in its program." if mistakes else ""


def _match(signatures: list[Fault], texts: list[Fault], secrets: Sequence[bytes]) -> str:
    """Return the mistakes of the first combination that gives the signature."""
    for secret in secrets[:_MAX_KEYS]:
        for key, of_key in _keys(secret):
            for text, of_text in texts:
                digest = hmac.digest(key, text, sha256)
                for given, of_signature in signatures:
                    if hmac.compare_digest(digest, given):
                        return _joined(of_signature, of_text, of_key)
    return ""


def _signatures(given: str, *, is_url: bool) -> Iterator[Fault]:
    """Yield the bytes that a signature can stand for; in `is_url` it must be base64url without padding."""
    mistakes = []
    bare = given.strip()
    if bare != given:
        mistakes.append("with blanks or a line end around it")
    if bare[:2] in ("b'", 'b"') and len(bare) > 3:
        mistakes.append("as Python prints bytes, b'…'")
        bare = bare[2:-1]
    name = "base64url" if is_url else "base64"
    if _HEX.fullmatch(bare):
        yield Fault(bytes.fromhex(bare), _joined(*mistakes, f"in hexadecimal instead of {name}"))
        return
    plain = bare.rstrip("=")
    if set("+/" if is_url else "-_") & set(plain):
        mistakes.append(f"in {'base64 instead of base64url' if is_url else 'base64url instead of base64'}")
    if is_url and bare != plain:
        mistakes.append("with = at its end")
    elif not is_url and len(bare) % 4:
        mistakes.append("without the = at the end of its base64")
    try:
        value = binascii.a2b_base64(plain.encode("ascii").translate(_FROM_URL) + b"=" * (-len(plain) % 4))
    except ValueError:
        return
    if len(value) == _DIGEST_BYTES:
        yield Fault(value, _joined(*mistakes))
    elif _HEX.fullmatch(value.decode("latin-1")):
        yield Fault(bytes.fromhex(value.decode()), _joined(*mistakes, f"in {name} of the hexadecimal text"))


def _keys(secret: bytes) -> Iterator[tuple[bytes, str]]:
    """Yield the bytes that a sender can take for the secret."""
    yield secret, ""
    yield secret + b"\n", "with a line end after the secret"
    with suppress(ValueError):
        decoded = binascii.a2b_base64(secret.translate(_FROM_URL) + b"=" * (-len(secret) % 4))
        yield decoded, "with the secret decoded from base64 instead of the bytes of its text"


def _texts_v1(message: dict[str, Any], payload: str) -> Iterator[tuple[bytes, str]]:
    """Yield the texts that senders sign instead of the canonical one."""
    spelled = _TIMESTAMP.search(payload)
    time = str(message.get("timestamp"))
    times = [(f"{time}|", "")]
    if spelled and spelled[1].strip('"') != time:
        times.append((f"{spelled[1]}|", f"with the timestamp as {spelled[1]} instead of {time} before the bar"))
    times += [
        ("", "without the timestamp and the bar before the object"),
        (time, "without the bar after the timestamp"),
    ]
    objects = list(_objects(message, payload))
    for start, of_start in times:
        for text, of_text in objects:
            for end, of_end in (("", ""), ("\n", "with a line end after the signed text")):
                yield f"{start}{text}{end}".encode("utf-8", "surrogatepass"), _joined(of_text, of_start, of_end)


def _objects(message: dict[str, Any], payload: str) -> Iterator[tuple[str, str]]:
    """Yield the texts of the object that senders sign, the canonical one first."""
    unsigned = {name: value for name, value in message.items() if name != "hmac"}
    for in_order, is_raw, is_compact in sorted(product((False, True), repeat=3), key=sum):
        text = json.dumps(
            unsigned,
            sort_keys=not in_order,
            ensure_ascii=not is_raw,
            separators=(",", ":") if is_compact else None,
        )
        mistakes = (
            "with the members in the order of the message instead of sorted by name" if in_order else "",
            "with characters beyond ASCII as they are instead of \\uXXXX" if is_raw else "",
            "without a space after each comma and colon" if is_compact else "",
        )
        yield text, _joined(*mistakes)
    canonical = json.dumps(unsigned, sort_keys=True)
    if sent := _without_hmac(payload):
        yield sent, f"over the object as it is sent, which has {_difference(sent, canonical)}"
    for filler in ("", None):
        with_hmac = json.dumps({**unsigned, "hmac": filler}, sort_keys=True)
        yield with_hmac, "with the member hmac in the signed object"


def _joined(*mistakes: str) -> str:
    return ", and ".join(filter(None, mistakes))


def _without_hmac(payload: str) -> str:
    """Return the payload as it was sent, without the member hmac; empty where that is not found."""
    match = _HMAC_MEMBER.search(payload)
    if match is None:
        return ""
    before, after = payload[: match.start()].rstrip(), payload[match.end() :]
    if before.endswith(","):
        return before[:-1] + after
    return before + after.removeprefix(",").lstrip()


def _difference(sent: str, canonical: str) -> str:
    """Return the first place where the two texts differ, with the next characters of each."""
    place = next((at for at, (one, other) in enumerate(zip(sent, canonical, strict=False)) if one != other), None)
    if place is None:
        place = min(len(sent), len(canonical))
    start = max(0, place - 4)
    excerpts = [text[start : place + _EXCERPT].strip(" ,:}") for text in (sent, canonical)]
    return f"{excerpts[0]!r} where the canonical one has {excerpts[1]!r}"
