"""What the services of devices raise, as answers of the API."""

from django.utils.translation import gettext as _

from devices.services.broker.errors import BrokerUnavailable
from devices.services.vault.secret_store import SecretsUnavailable
from tenants.api import errors
from tenants.api.errors import Unavailable


class Handler(errors.Handler):
    """The handler of all views (`DRF_STANDARDIZED_ERRORS`)."""

    def convert_known_exceptions(self, exc: Exception) -> Exception:
        """Convert exceptions of services into exceptions of the API."""
        if isinstance(exc, SecretsUnavailable):
            # The exception's own text holds addresses and paths: it is for the log.
            return Unavailable(_("The store of device keys does not answer. Try again in a few seconds."))
        if isinstance(exc, BrokerUnavailable):
            return Unavailable(_("The broker does not answer. Try again in a few seconds."))
        return super().convert_known_exceptions(exc)
