"""Networks from which an API key can be used."""

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

MAX_NETWORKS = 32


def normalize(given: Sequence[Any]) -> list[str]:
    """Return the networks as CIDR, each once. Raises ValueError that names the first invalid one."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ValueError(_("Addresses must be a list of networks."))
    if len(given) > MAX_NETWORKS:
        values = {"most": MAX_NETWORKS, "number": len(given)}
        raise ValueError(_("There must be at most %(most)d addresses, not %(number)d.") % values)
    return list(dict.fromkeys(_normalized(network) for network in given))


def validate_networks(given: Any) -> None:
    """Raise ValidationError where `normalize` raises ValueError; a validator of model fields."""
    try:
        normalize(given)
    except ValueError as error:
        raise ValidationError(str(error)) from error


def contain(networks: Iterable[str], address: str) -> bool:
    """Return whether one of the networks contains the address; an IPv4 address in IPv6 form is one of IPv4."""
    try:
        found: Any = ipaddress.ip_address(address)
    except ValueError:
        return False
    found = getattr(found, "ipv4_mapped", None) or found
    return any(found in ipaddress.ip_network(network) for network in networks)


def _normalized(network: Any) -> str:
    try:
        return str(ipaddress.ip_network(str(network)))
    except ValueError as error:
        raise ValueError(
            _("%(network)r is not a valid address or network; use a form such as 203.0.113.7 or 203.0.113.0/24.")
            % {"network": network}
        ) from error
