"""ETags of objects: for reading only what has changed, and for changing only what no other client has changed.

An ETag has two parts, `"{edited}-{state}"`: hashes of the members that a client can write, and of the others.
`If-Match` compares the first one, so that a message of the device makes no change of its name fail.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from django.db import transaction
from django.utils.http import parse_etags
from django.utils.translation import gettext_lazy as _
from rest_framework import status
from rest_framework.exceptions import APIException
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer, Serializer
from rest_framework.utils.encoders import JSONEncoder
from rest_framework.views import APIView

from tenants.infrastructure.error_codes import ErrorCode

# The end of the ETag of an answer that was compressed.
COMPRESSED = '-gzip"'

_TAGGED_METHODS = ("GET", "HEAD", "PATCH")


class PreconditionFailed(APIException):
    """The object is not the one that the client has read."""

    status_code = status.HTTP_412_PRECONDITION_FAILED
    default_code = ErrorCode.PRECONDITION_FAILED
    default_detail = _(
        "The object was changed since it was read: 'If-Match' is not its ETag. Read it again and repeat the request."
    )


def entity_tag(data: Mapping[str, Any], writable: Iterable[str]) -> str:
    """Return the ETag of an object's representation; `writable` are the members that clients can change."""
    names = set(writable)
    edited = {name: value for name, value in data.items() if name in names}
    state = {name: value for name, value in data.items() if name not in names}
    return f'"{_digest(edited)}-{_digest(state)}"'


def is_unchanged(if_none_match: str, tag: str) -> bool:
    """Return whether the client has the object as it is."""
    given = parse_etags(if_none_match)
    return given == ["*"] or tag in {one.removeprefix("W/").replace(COMPRESSED, '"') for one in given}


def is_unedited(if_match: str, tag: str) -> bool:
    """Return whether the client has the writable members as they are."""
    given = parse_etags(if_match)
    edited = tag.partition("-")[0]
    return given == ["*"] or any(one.partition("-")[0] == edited for one in given)


class TaggedView(APIView):
    """A view of one object, which has an ETag; PATCH and DELETE observe `If-Match`."""

    def lock_object(self) -> None:
        """Lock the object until the end of the transaction."""
        raise NotImplementedError

    def object_serializer(self) -> BaseSerializer[Any]:
        """Return the serializer of the object as it is."""
        raise NotImplementedError

    def is_of_one_object(self) -> bool:
        """Return whether the request is for the object itself."""
        return True

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Check the request before its handler runs."""
        super().initial(request, *args, **kwargs)
        method = (request.method or "").lower()
        if method in ("patch", "delete") and "If-Match" in request.headers and self.is_of_one_object():
            setattr(self, method, self._if_unedited(getattr(self, method)))

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Response:
        """Set the ETag; answer 304 to a client that has the object as it is."""
        if request.method in _TAGGED_METHODS and response.status_code == status.HTTP_200_OK and self._is_whole(request):
            tag = self._tag(response.data)
            if request.method != "PATCH" and is_unchanged(request.headers.get("If-None-Match", ""), tag):
                response = Response(status=status.HTTP_304_NOT_MODIFIED)
            response.headers["ETag"] = tag
        return super().finalize_response(request, response, *args, **kwargs)

    def _if_unedited(self, handler: Callable[..., Response]) -> Callable[..., Response]:
        def answer(request: Request, *args: Any, **kwargs: Any) -> Response:
            with transaction.atomic():
                self.lock_object()
                tag = self._tag(self.object_serializer().data)
                if not is_unedited(request.headers["If-Match"], tag):
                    raise PreconditionFailed
                return handler(request, *args, **kwargs)

        return answer

    def _is_whole(self, request: Request) -> bool:
        # An answer with some members only cannot be compared with the whole object.
        return self.is_of_one_object() and "fields" not in request.query_params

    def _tag(self, data: Mapping[str, Any]) -> str:
        return entity_tag(data, self.edited_members())

    def object_serializer_class(self) -> type[Serializer[Any]]:
        """Return the class of the object's serializer."""
        raise NotImplementedError

    def edited_members(self) -> frozenset[str]:
        """Return the members that `If-Match` compares: those that a client can write."""
        return _writable(self.object_serializer_class())


class TaggedObject(TaggedView, GenericAPIView):
    """The same for the objects of a view set."""

    def is_of_one_object(self) -> bool:
        """Return whether the request is for the object itself, and not for a list or a part of it."""
        return getattr(self, "action", "") in ("retrieve", "partial_update", "destroy")

    def lock_object(self) -> None:
        """Lock the object's row; one that the client cannot see is not found."""
        found = self.get_object()
        type(found)._base_manager.select_for_update().filter(pk=found.pk).first()

    def object_serializer(self) -> BaseSerializer[Any]:
        """Return the serializer of the object as it is, read again."""
        return self.get_serializer(self.get_object())

    def object_serializer_class(self) -> Any:
        """Return the class of the object's serializer."""
        return self.get_serializer_class()


@cache
def _writable(serializer_class: type[Serializer[Any]]) -> frozenset[str]:
    # Building the fields of a serializer is expensive, and they are always the same.
    return frozenset(name for name, field in serializer_class().fields.items() if not field.read_only)


def _digest(members: Mapping[str, Any]) -> str:
    text = json.dumps(members, cls=JSONEncoder, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
