"""The handler of the exceptions of all views, with those of the services of devices."""

from typing import Any

from django.utils.translation import gettext as _
from rest_framework.response import Response

from devices.services.broker.errors import BrokerUnavailable
from devices.services.vault.secret_store import SecretsUnavailable
from tenants.api import errors
from tenants.infrastructure.error_codes import ErrorCode


def answer_exception(exception: Exception, context: dict[str, Any]) -> Response | None:
    """Return the response to an exception in a view; None for an unexpected one."""
    return errors.answer_exception(_converted(exception), context)


def _converted(exception: Exception) -> Exception:
    if isinstance(exception, SecretsUnavailable):
        # The exception's own text contains addresses and paths and is for the log only.
        text = _("The store of device keys does not answer. Try again in a few seconds.")
        return _caused(errors.Unavailable(text, ErrorCode.VAULT_UNAVAILABLE), exception)
    if isinstance(exception, BrokerUnavailable):
        text = _("The broker does not answer. Try again in a few seconds.")
        return _caused(errors.Unavailable(text, ErrorCode.BROKER_UNAVAILABLE), exception)
    return exception


def _caused(answered: Exception, cause: Exception) -> Exception:
    answered.__cause__ = cause
    return answered
