"""Payloads as people read them."""

import base64

import pytest

from tenants.admin.payloads import LIMIT, readable


@pytest.mark.parametrize(
    ("payload", "text", "is_text"),
    [
        (b'{"t": 21.5}', '{"t": 21.5}', True),
        ("21 °C\n".encode(), "21 °C\n", True),
        (b"", "", True),
        (b"\xff\xfe", "ff fe", False),
        (b"a\x00b", "61 00 62", False),  # a character that no page can show
        (memoryview(b"as psycopg gives it"), "as psycopg gives it", True),
    ],
)
def test_text_or_hexadecimal(payload: bytes, text: str, is_text: bool) -> None:
    shown = readable(payload)
    assert (shown.text, shown.is_text, shown.size, shown.cut) == (text, is_text, len(payload), False)


@pytest.mark.parametrize("character", ["a", "é", "관", "🌡"])
def test_a_long_text_is_cut_between_characters(character: str) -> None:
    shown = readable((character * (LIMIT + 1)).encode())
    assert shown.cut
    assert shown.is_text
    assert set(shown.text) == {character}
    assert LIMIT - 4 < len(shown.text.encode()) <= LIMIT
    assert shown.size == (LIMIT + 1) * len(character.encode())


def test_a_text_that_ends_within_a_character_is_not_text() -> None:
    assert not readable("é".encode()[:1]).is_text


def test_what_a_signature_covers_is_decoded() -> None:
    def part(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    token = b".".join(part(data) for data in (b'{"alg":"HS256"}', b'{"t": "\xc2\xb0"}', b"signature"))
    assert readable(token).signed == '{"t": "°"}'
    assert readable(b"not.a.!token").signed == ""
    assert readable(b".".join((part(b"{}"), part(b"\xff"), b""))).signed == ""
