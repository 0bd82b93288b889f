"""Encryption of a device's next secret for its transport.

AES-256-GCM under a key derived from the old secret (HKDF-SHA256), for this device and these two key ids only: the
connection need not be encrypted, and the broker learns nothing. Pure, but for randomness.
"""

import base64
import os
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def encrypt_secret(new: str, old: str, *, uuid: UUID, old_version: int, new_version: int) -> dict[str, str]:
    """Return the members `salt`, `nonce` and `secret` (base64url) of a `rotate_key` command."""
    salt, nonce = os.urandom(32), os.urandom(12)
    context = f"gwanje rotate_key|{uuid}|{old_version}|{new_version}".encode()
    key = HKDF(SHA256(), 32, salt, context).derive(old.encode())
    sealed = AESGCM(key).encrypt(nonce, new.encode(), context)
    return {name: _encode(value).decode() for name, value in (("salt", salt), ("nonce", nonce), ("secret", sealed))}


def _encode(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")
