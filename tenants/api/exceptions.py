"""What REST framework has no exception for."""

from django.utils.translation import gettext_lazy as _
from rest_framework.exceptions import APIException


class Conflict(APIException):
    """The request is right, and what is there already stands against it."""

    status_code = 409
    default_code = "conflict"
    default_detail = _("Somebody else changed the same thing at the same time: look at it again and repeat.")


class TooLarge(APIException):
    """The request's body is larger than the platform reads."""

    status_code = 413
    default_code = "too_large"


class Unavailable(APIException):
    """A server that the answer needs is away; the same request may be repeated."""

    status_code = 503
    default_code = "unavailable"
    default_detail = _("The database does not answer. Try again in a few seconds.")
    wait = 5  # seconds, in Retry-After
