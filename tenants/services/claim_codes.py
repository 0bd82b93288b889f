"""Claim codes, which people type, and fetch tokens, which devices send. Only hashes of them are stored.

A claim code has 16 characters of Crockford's base 32 (without I, L, O, U): 15 random ones, which are 75 bits, and a
check character, which detects a typing error without a query.
"""

import hashlib
import secrets

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
FETCH_PREFIX = "gwf_"
_LENGTH = 16
_GROUP = 4
# Crockford's modulus: a prime above 32 detects every wrong character and every swap of two.
_MODULUS = 37
_CORRECTIONS = str.maketrans({"O": "0", "I": "1", "L": "1"}) | str.maketrans("", "", " -–_\t\r\n")


def new_claim_code() -> str:
    """Return a new code as it is printed: `K7QM-3XPA-9R2T-V5WD`."""
    while True:
        body = "".join(secrets.choice(ALPHABET) for _ in range(_LENGTH - 1))
        check = _check(body)
        # Five of the 37 check symbols are outside the alphabet: such codes are not used.
        if check < len(ALPHABET):
            code = body + ALPHABET[check]
            return "-".join(code[start : start + _GROUP] for start in range(0, _LENGTH, _GROUP))


def read_claim_code(text: str) -> str | None:
    """Return the code without separators, or None for a mistyped one."""
    code = text[:100].upper().translate(_CORRECTIONS)
    if len(code) != _LENGTH or not set(code) <= set(ALPHABET):
        return None
    return code if ALPHABET.index(code[-1]) == _check(code[:-1]) else None


def new_fetch_token() -> str:
    """Return a new token for the memory card of a device: 256 random bits."""
    return FETCH_PREFIX + secrets.token_urlsafe(32)


def digest(text: str) -> str:
    """Return the stored hash of a code or token. Unsalted: both are random and too long to be guessed."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def matches(stored: str, text: str) -> bool:
    """Return whether the text has the stored hash; compares in constant time."""
    return secrets.compare_digest(stored, digest(text))


def _check(body: str) -> int:
    number = 0
    for character in body:
        number = 32 * number + ALPHABET.index(character)
    return number % _MODULUS
