"""Claim codes: typing errors are distinguished from wrong codes."""

import pytest

from tenants.services import claim_codes


def test_a_code_reads_back_however_it_is_typed() -> None:
    for _ in range(50):
        code = claim_codes.new_claim_code()
        plain = code.replace("-", "")
        assert len(plain) == 16
        for typed in (
            code,
            code.lower(),
            code.replace("-", " "),
            f" {plain} ",
            code.replace("0", "o").replace("1", "l"),
        ):
            assert claim_codes.read_claim_code(typed) == plain


def test_every_wrong_character_and_every_swap_shows() -> None:
    plain = claim_codes.new_claim_code().replace("-", "")
    for place in range(16):
        for other in set(claim_codes.ALPHABET) - {plain[place]}:
            assert claim_codes.read_claim_code(plain[:place] + other + plain[place + 1 :]) is None
    for place in range(15):
        swapped = plain[:place] + plain[place + 1] + plain[place] + plain[place + 2 :]
        assert swapped == plain or claim_codes.read_claim_code(swapped) is None


@pytest.mark.parametrize("typed", ["", "K7QM", "UUUU-UUUU-UUUU-UUUU", "한글" * 8, "\0" * 16, "0" * 5000])
def test_what_is_no_code(typed: str) -> None:
    assert claim_codes.read_claim_code(typed) is None


def test_codes_and_tokens_differ_and_are_compared_as_hashes() -> None:
    assert len({claim_codes.new_claim_code() for _ in range(200)}) == 200
    token = claim_codes.new_fetch_token()
    assert claim_codes.matches(claim_codes.digest(token), token)
    assert not claim_codes.matches(claim_codes.digest(token), token + "x")
