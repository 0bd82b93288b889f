"""Signed cursors: the position at which a page ended, as opaque text.

A cursor is signed for one tenant and one list; a cursor of another tenant, or of another device's readings, is
rejected.
"""

import datetime
from collections.abc import Callable
from typing import Any

from django.core.signing import BadSignature, Signer
from django.utils.translation import gettext as _
from rest_framework.exceptions import ErrorDetail, ValidationError

from tenants.infrastructure.database import current_schema
from tenants.infrastructure.error_codes import ErrorCode


def encode(scope: str, position: list[Any]) -> str:
    """Return the cursor of a position (plain JSON values) in the list that `scope` names."""
    return _signer(scope).sign_object(position)


def decode(scope: str, text: str) -> list[Any]:
    """Return the position of a cursor. Raises ValidationError (400) for a cursor of another list."""
    try:
        return list(_signer(scope).unsign_object(text))
    except BadSignature as error:
        refusal = _("The cursor does not belong to this list. Use `next` unchanged, or start without a cursor.")
        raise ValidationError({"cursor": ErrorDetail(refusal, ErrorCode.INVALID_CURSOR)}) from error


def decode_after(scope: str, cursor: str | None, key: Callable[[Any], Any]) -> tuple[datetime.datetime, Any] | None:
    """Return the (time, key) that a page of a list over time ended with, or None without a cursor."""
    if cursor is None:
        return None
    time, value = decode(scope, cursor)
    return datetime.datetime.fromisoformat(time), key(value)


def _signer(scope: str) -> Signer:
    return Signer(sep=".", salt=f"gwanje.api.cursor:{current_schema()}:{scope}")
