"""Codes that people type off a label, and tokens that only machines read. What is kept of either is a hash.

A claim code is 16 characters of Crockford's base 32 (no I, L, O, U): 15 at random, which are 75 bits, and his check
character, so that a slip of the finger is told from a wrong code without asking anybody.
"""

import hashlib
import secrets

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
FETCH_PREFIX = "gwf_"
_LENGTH = 16
_GROUP = 4
# Crockford's: a prime above 32, so that every wrong character and every swap of two shows.
_MODULUS = 37
_MEANT = str.maketrans({"O": "0", "I": "1", "L": "1"}) | str.maketrans("", "", " -–_\t\r\n")


def new_claim_code() -> str:
    """A code as it is printed: `K7QM-3XPA-9R2T-V5CW`."""
    while True:
        body = "".join(secrets.choice(ALPHABET) for _ in range(_LENGTH - 1))
        check = _check(body)
        # Five of the 37 check symbols are no letters: such codes are not given out.
        if check < len(ALPHABET):
            code = body + ALPHABET[check]
            return "-".join(code[start : start + _GROUP] for start in range(0, _LENGTH, _GROUP))


def read_claim_code(text: str) -> str | None:
    """The code without what is between its characters; None where it was mistyped."""
    code = text[:100].upper().translate(_MEANT)
    if len(code) != _LENGTH or not set(code) <= set(ALPHABET):
        return None
    return code if ALPHABET.index(code[-1]) == _check(code[:-1]) else None


def new_fetch_token() -> str:
    """A token for the card of a device: 256 random bits."""
    return FETCH_PREFIX + secrets.token_urlsafe(32)


def digest(text: str) -> str:
    """What is kept of a code or token: no more is needed for what nobody finds by trying."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def same(kept: str, text: str) -> bool:
    """Whether the text is the one of which `kept` was made; in constant time."""
    return secrets.compare_digest(kept, digest(text))


def _check(body: str) -> int:
    number = 0
    for character in body:
        number = 32 * number + ALPHABET.index(character)
    return number % _MODULUS
