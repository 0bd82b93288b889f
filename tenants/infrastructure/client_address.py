"""The address of a request's client: of the connection, or of the newest untrusted hop that trusted proxies report."""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from django.core.exceptions import ImproperlyConfigured

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

# More hops than a request has; a longer header is cut at its left, which its sender wrote.
_MAX_HOPS = 20
_PORT = re.compile(r"^\[(?P<v6>[^\]]+)\](?::\d+)?$|^(?P<v4>[0-9.]+):\d+$")
# One customer of a provider has a whole network of this size.
_IPV6_PREFIX = 64


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Return the networks of a setting, addresses or CIDR. Raises ImproperlyConfigured that names the wrong one."""
    networks: list[Network] = []
    for text in texts:
        try:
            networks.append(ip_network(text.strip()))
        except ValueError as error:
            raise ImproperlyConfigured(
                f"TRUSTED_PROXIES must contain addresses or networks, for example 127.0.0.1,10.0.0.0/8: {error}."
            ) from error
    return tuple(networks)


def client_address(peer: str, forwarded_for: str, trusted: Sequence[Network]) -> str:
    """Return the client's address from the connection's peer and the header `X-Forwarded-For`.

    Each proxy appends the address of its own peer, so the header is read from the right: the first address that is
    not a trusted proxy is the client. What a client wrote itself is further left and is never read. An entry that is
    not an address ends the search at the proxy that reported it.
    """
    address = _parse(peer)
    if address is None or not _is_trusted(address, trusted):
        return peer
    for hop in reversed(forwarded_for.rsplit(",", _MAX_HOPS)[-_MAX_HOPS:]):
        reported = _parse(hop)
        if reported is None:
            break
        address = reported
        if not _is_trusted(address, trusted):
            break
    return str(address)


def comes_from_proxy(peer: str, trusted: Sequence[Network]) -> bool:
    """Return whether the connection's peer is a trusted proxy."""
    address = _parse(peer)
    return address is not None and _is_trusted(address, trusted)


def address_group(address: str) -> str:
    """Return the text under which an address is counted: an IPv6 address by its /64 network, others as they are."""
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, _IPV6_PREFIX), strict=False))
    return str(parsed or "unknown")


def _parse(text: str) -> Address | None:
    """Return the address, without a port; an IPv4 address inside IPv6 as IPv4."""
    text = text.strip()
    if match := _PORT.match(text):
        text = match["v6"] or match["v4"]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_trusted(address: Address, trusted: Sequence[Network]) -> bool:
    return any(address in network for network in trusted)
