"""Clients of the MQTT broker, built from the addresses in the settings, with TLS where these say so."""

from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as mqtt
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from paho.mqtt.enums import CallbackAPIVersion

from tenants.infrastructure.secret_values import SecretUrl, reveal

ClientT = TypeVar("ClientT", bound=mqtt.Client)

_PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """The address of a broker, and whether it is reached over TLS."""

    host: str
    port: int
    is_tls: bool

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def address_of(url: SecretUrl | str, setting: str = "MQTT_URL") -> BrokerAddress:
    """Return the address in a URL like `mqtt://user:password@host:1883` or `mqtts://…`.

    Raises ImproperlyConfigured with the name of the setting where the URL is empty or has another scheme.
    """
    parts = urlsplit(reveal(url))
    if parts.scheme not in _PORTS:
        raise ImproperlyConfigured(
            f"{setting} must begin with mqtt:// or mqtts://, for example mqtt://user:password@host:1883."
        )
    return BrokerAddress(
        parts.hostname or "localhost", parts.port or _PORTS[parts.scheme], is_tls=parts.scheme == "mqtts"
    )


def make_client(url: SecretUrl | str, client_id: str, **options: Any) -> mqtt.Client:
    """Return a client that logs in as the URL says; `options` are those of paho's client."""
    return make_client_of(mqtt.Client, url, client_id, **options)


def make_client_of(client_class: type[ClientT], url: SecretUrl | str, client_id: str, **options: Any) -> ClientT:
    """Return a client of a class of our own, as `make_client` does.

    Over TLS the broker's certificate must come from an authority of `MQTT_CA_FILE`, or, without it, of the system,
    and must name the host.
    """
    parts = urlsplit(reveal(url))
    client = client_class(CallbackAPIVersion.VERSION2, client_id=client_id, **options)
    client.username_pw_set(unquote(parts.username or ""), unquote(parts.password or ""))
    if address_of(url).is_tls:
        client.tls_set(ca_certs=settings.MQTT_CA_FILE or None)
    return client
