"""The address of a client behind proxies: a table, and that no client chooses its own."""

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured, MiddlewareNotUsed
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from hypothesis import given
from hypothesis import strategies as st

from tenants.infrastructure.client_address import address_group, client_address, parse_networks
from tenants.middleware import trust_proxies

PROXIES = parse_networks(["127.0.0.1", "10.0.0.0/8", "2001:db8:1::/48"])


@pytest.mark.parametrize(
    ("peer", "header", "client"),
    [
        ("198.51.100.7", "", "198.51.100.7"),
        ("198.51.100.7", "192.0.2.1", "198.51.100.7"),  # written by the client itself
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "192.0.2.1", "192.0.2.1"),
        ("127.0.0.1", "6.6.6.6, 192.0.2.1", "192.0.2.1"),
        ("127.0.0.1", "6.6.6.6, 192.0.2.1, 10.1.1.1", "192.0.2.1"),
        ("127.0.0.1", "10.9.9.9, 10.1.1.1", "10.9.9.9"),  # a client inside
        ("127.0.0.1", "192.0.2.1:4711", "192.0.2.1"),
        ("127.0.0.1", "[2001:db8:ffff::1]:4711", "2001:db8:ffff::1"),
        ("2001:db8:1::1", "::ffff:192.0.2.1", "192.0.2.1"),
        ("127.0.0.1", "192.0.2.1, no address", "127.0.0.1"),
        ("127.0.0.1", "192.0.2.1, unknown, 10.1.1.1", "10.1.1.1"),
        ("127.0.0.1", ",".join(["6.6.6.6"] * 50_000), "6.6.6.6"),
        ("", "192.0.2.1", ""),
        ("a socket", "192.0.2.1", "a socket"),
    ],
)
def test_the_newest_untrusted_hop_is_the_client(peer: str, header: str, client: str) -> None:
    assert client_address(peer, header, PROXIES) == client


@given(forged=st.text(max_size=200), real=st.ip_addresses(v=4).filter(lambda a: not any(a in n for n in PROXIES)))
def test_nothing_that_a_client_writes_changes_its_address(forged: str, real: Any) -> None:
    assert client_address("127.0.0.1", f"{forged},{real}", PROXIES) == str(real)
    assert client_address(str(real), forged, PROXIES) == str(real)


def test_an_ipv6_customer_is_one_source() -> None:
    assert address_group("2001:db8:7:8:1:2:3:4") == address_group("2001:db8:7:8:ffff::1") == "2001:db8:7:8::/64"
    assert address_group("192.0.2.1") == address_group("::ffff:192.0.2.1") == "192.0.2.1"
    assert address_group("") == address_group("a socket") == "unknown"


def test_a_setting_that_is_no_network_is_named() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"TRUSTED_PROXIES .* 'proxy\.local'"):
        parse_networks(["10.0.0.0/8", "proxy.local"])


def seen_behind(settings: Any, **meta: str) -> HttpRequest:
    """The request as the middleware passes it on."""
    settings.TRUSTED_PROXIES = PROXIES
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    request = RequestFactory().get("/", **meta)  # type: ignore[arg-type]
    trust_proxies(lambda passed: HttpResponse())(request)
    return request


def test_the_middleware_sets_address_and_scheme_for_proxies_alone(settings: Any) -> None:
    forwarded = {"HTTP_X_FORWARDED_FOR": "6.6.6.6, 192.0.2.1", "HTTP_X_FORWARDED_PROTO": "https"}
    request = seen_behind(settings, REMOTE_ADDR="10.0.0.1", **forwarded)
    assert (request.META["REMOTE_ADDR"], request.is_secure()) == ("192.0.2.1", True)
    request = seen_behind(settings, REMOTE_ADDR="198.51.100.7", **forwarded)
    assert (request.META["REMOTE_ADDR"], request.is_secure()) == ("198.51.100.7", False)


def test_without_proxies_there_is_no_middleware(settings: Any) -> None:
    settings.TRUSTED_PROXIES = ()
    with pytest.raises(MiddlewareNotUsed):
        trust_proxies(lambda request: HttpResponse())
