"""Both signature versions against the vectors, and against every small change."""

import base64
import hmac
import json
from contextlib import nullcontext
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.services.pipeline import form, signature
from telemetry.services.pipeline.results import Refusal
from tests.fuzz import targets

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "data" / "signatures.json").read_text())
V1 = [vector for vector in VECTORS if vector["scheme"] == "v1"]
V2 = [vector for vector in VECTORS if vector["scheme"] == "v2"]


def _name(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def _key(vector: dict[str, Any]) -> bytes:
    encoded = vector.get("secret_base64url")
    if encoded is None:
        return str(vector["secret"]).encode()
    return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))


def _sign_v1(message: dict[str, Any], secret: str) -> str:
    """Return the version 1 signature, made from the protocol."""
    text = f"{message.get('timestamp')}|{json.dumps(message, sort_keys=True)}".encode("utf-8", "surrogatepass")
    return base64.b64encode(hmac.digest(secret.encode(), text, "sha256")).decode()


def _is_signed_v1(message: dict[str, Any], secret: str, given: str) -> bool:
    return signature.is_hmac_of(given, signature.signed_text(message), secret.encode())


def _verify(message: dict[str, Any], secret: str) -> signature.SignedMessage:
    """Verify a version 1 message as the listener does, under the secret as version 1 of the device's key."""
    keys = {1: secret.encode(), 2: b"another secret"}
    payload = json.dumps(message).encode()
    return signature.verify(payload, targets.device(), keys.get, targets.NOW.astimezone(UTC))


def _verify_v2(token: bytes, key: bytes) -> dict[str, Any]:
    """Return the signed object, by the steps with which the listener reads a token once it has found the key."""
    return form.parse_object(signature.verified_payload(token, key))


@given(st.binary(max_size=200), st.binary(max_size=500))
def test_the_hmac_is_that_of_the_standard_library(key: bytes, text: bytes) -> None:
    assert signature.hmac_sha256(key, text) == hmac.digest(key, text, "sha256")


def test_no_vector_is_left_out() -> None:
    assert len(V1) + len(V2) == len(VECTORS) == 35


@pytest.mark.parametrize("vector", V1, ids=_name)
def test_version_1_vector(vector: dict[str, Any]) -> None:
    message = vector["message"]
    assert _is_signed_v1(message, vector["secret"], message["hmac"]) is vector["valid"]
    unsigned = {key: value for key, value in message.items() if key != "hmac"}
    assert _is_signed_v1(unsigned, vector["secret"], message["hmac"]) is vector["valid"]
    with nullcontext() if vector["valid"] else pytest.raises(Refusal, match="hmac does not match"):
        assert _verify(message, vector["secret"]).key_version == 1


@pytest.mark.parametrize("vector", V2, ids=_name)
def test_version_2_vector(vector: dict[str, Any]) -> None:
    token = vector["token"].encode()
    if not vector["valid"]:
        with pytest.raises((signature.BadToken, Refusal)):
            _verify_v2(token, _key(vector))
        return
    claims = _verify_v2(token, _key(vector))
    if "payload" in vector:
        assert claims == vector["payload"]


def test_every_single_byte_change_of_a_token_is_refused() -> None:
    vector = next(v for v in V2 if v["valid"] and "payload" in v)
    token, key = vector["token"].encode(), _key(vector)
    for position in range(len(token)):
        for replacement in (token[position] ^ 1, token[position] ^ 0x20, ord("A"), ord("_"), ord("."), 0, 255):
            if replacement != token[position]:
                changed = token[:position] + bytes([replacement]) + token[position + 1 :]
                with pytest.raises(signature.BadToken):
                    _verify_v2(changed, key)


@pytest.mark.parametrize("token", [b"", b".", b"..", b"a.b", b"a.b.c.d", b"e30..", b"bnVsbA.e30.AA", b"\xff.\xff.\xff"])
def test_what_is_no_token_is_refused(token: bytes) -> None:
    with pytest.raises(signature.BadToken):
        _verify_v2(token, b"key")


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=4,
    ),
    st.text(max_size=20),
)
def test_version_1_signs_what_python_prints(message: dict[str, Any], secret: str) -> None:
    """The round trip over the wire: what a device signs with json.dumps is verified after json.loads."""
    secret = secret.encode("utf-8", "replace").decode()
    message.pop("hmac", None)
    signed = _sign_v1(message, secret)
    received = json.loads(json.dumps({**message, "hmac": signed}))
    assert _is_signed_v1(received, secret, received["hmac"])
    assert _verify(received, secret).version == 1
    assert not _is_signed_v1({**received, "extra": 1}, secret, received["hmac"]) or "extra" in message


@pytest.mark.parametrize("given_signature", ["", "é", "\ud800", "AAAA", 7, None, []])
def test_a_signature_that_is_none_is_refused(given_signature: Any) -> None:
    if isinstance(given_signature, str):
        assert _is_signed_v1({"timestamp": 1}, "secret", given_signature) is False
    # A lone surrogate is not JSON.
    with pytest.raises(Refusal, match="JSON" if given_signature == "\ud800" else "hmac"):
        _verify({"timestamp": 1, "hmac": given_signature}, "secret")


@pytest.mark.parametrize("typ", ["command+jws", "Command+JWS", "application/command+jws"])
def test_a_message_with_the_type_of_commands_is_refused(typ: str) -> None:
    assert _typed("telemetry+jws") == {}
    with pytest.raises(signature.BadToken, match=r"typ must not be command\+jws"):
        _typed(typ)


def _typed(typ: str) -> dict[str, Any]:
    header = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": "1", "typ": typ}).encode()).rstrip(b"=")
    signed = header + b".e30"
    digest = base64.urlsafe_b64encode(hmac.digest(b"key", signed, "sha256")).rstrip(b"=")
    return _verify_v2(signed + b"." + digest, b"key")
