"""The header `Idempotency-Key` of requests that make or send something."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from django.core.files.uploadedfile import UploadedFile
from django.utils.translation import gettext_lazy as _
from rest_framework import status
from rest_framework.exceptions import APIException, ErrorDetail
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.encoders import JSONEncoder

from devices.models import ApiKey
from devices.services import idempotency
from tenants.api.errors import InvalidHeader
from tenants.infrastructure.error_codes import ErrorCode

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
# Printable ASCII, in quotation marks or not.
_KEY = re.compile(r'"(?P<quoted>[\x20-\x21\x23-\x5b\x5d-\x7e]{1,255})"|(?P<bare>[\x21\x23-\x7e]{1,255})')
# Never stored, wherever they are in an answer; a view can name more.
SECRET_MEMBERS = frozenset({"secret", "mqtt_password", "password", "token"})
# The description of a secret member.
NULL_WHEN_REPEATED = "null in the repeated answer to an `Idempotency-Key`."

Handler = Callable[..., Response]


class ReusedKeyRefusal(APIException):
    """The key was sent with another request."""

    status_code = status.HTTP_422_UNPROCESSABLE_ENTITY
    default_code = ErrorCode.IDEMPOTENCY_KEY_REUSED
    default_detail = _("This Idempotency-Key was sent with another request within 24 hours. Use a new key.")


class RequestInProgressRefusal(APIException):
    """A request with this key is in progress."""

    status_code = status.HTTP_409_CONFLICT
    default_code = ErrorCode.IDEMPOTENCY_IN_PROGRESS
    default_detail = _("A request with this Idempotency-Key is in progress. Repeat it in a moment.")
    wait = 1  # seconds, in Retry-After


def answering_once(handler: Handler, secret_members: frozenset[str]) -> Handler:
    """Return the handler of a POST that carries out a request with an `Idempotency-Key` once."""

    def answer(request: Request, *args: Any, **kwargs: Any) -> Response:
        key = _key_of(request)
        if key is None:
            return handler(request, *args, **kwargs)
        fresh: list[Response] = []

        def run() -> idempotency.Answer:
            fresh.append(handler(request, *args, **kwargs))
            return idempotency.Answer(fresh[0].status_code, _stored_text(fresh[0].data, secret_members))

        wanted = idempotency.IdempotentRequest(_caller_of(request), key, _fingerprint(request))
        try:
            stored = idempotency.find_or_run(wanted, run)
        except idempotency.KeyReused as error:
            raise ReusedKeyRefusal from error
        except idempotency.RequestInProgress as error:
            raise RequestInProgressRefusal from error
        return fresh[0] if stored is None else _replay(stored)

    return answer


def without_secrets(data: Any, members: frozenset[str]) -> Any:
    """Return the data of an answer with null for the secret members, on every level."""
    if isinstance(data, Mapping):
        return {name: None if name in members else without_secrets(value, members) for name, value in data.items()}
    return [without_secrets(value, members) for value in data] if isinstance(data, list | tuple) else data


def _key_of(request: Request) -> str | None:
    given = request.headers.get(HEADER)
    if given is None:
        return None
    found = _KEY.fullmatch(given)
    if found is None:
        text = _("'Idempotency-Key' must be 1 to 255 printable ASCII characters without blanks.")
        raise InvalidHeader({HEADER: ErrorDetail(str(text), ErrorCode.INVALID_FORMAT)})
    return found["quoted"] or found["bare"]


def _caller_of(request: Request) -> str:
    kind = "key" if isinstance(request.user, ApiKey) else "user"
    return f"{kind}:{request.user.pk}"


def _stored_text(data: Any, secret_members: frozenset[str]) -> str:
    if data is None:
        return ""
    return json.dumps(without_secrets(data, SECRET_MEMBERS | secret_members), cls=JSONEncoder, ensure_ascii=False)


def _replay(stored: idempotency.Answer) -> Response:
    data = json.loads(stored.body) if stored.body else None
    return Response(data, stored.status, headers={REPLAYED: "true"})


def _fingerprint(request: Request) -> str:
    """Return a hash of method, address and content; the order of members and the borders of a form do not count."""
    digest = hashlib.sha256(f"{request.method} {request._request.path_info}\n".encode())
    for part in _parts(request.data):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def _parts(data: Any) -> Iterator[bytes]:
    if not hasattr(data, "lists"):
        yield json.dumps(data, sort_keys=True).encode()
        return
    for name, values in sorted(data.lists()):
        for value in values:
            yield name.encode()
            yield _content(value) if isinstance(value, UploadedFile) else str(value).encode()


def _content(file: UploadedFile) -> bytes:
    digest = hashlib.sha256((file.name or "").encode())
    for chunk in file.chunks():
        digest.update(chunk)
    file.seek(0)
    return digest.digest()
