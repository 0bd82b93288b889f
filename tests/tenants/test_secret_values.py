"""Secrets in the settings: no list of settings, page, log or environment shows one."""

import copy
import io
import logging
import pickle
from pprint import pformat
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from django.conf import settings as django_settings
from django.core.management import call_command
from django.test import Client, RequestFactory
from django.views.debug import ExceptionReporter

from tenants.infrastructure.secret_values import SecretText, SecretUrl, reveal

_URL = "mqtts://gwanje-admin:top%20secret@broker.example:8883/x"


def secrets_of(settings: Any) -> dict[str, str]:
    """Return the secret texts of the settings of this run, by the name of the setting."""
    found = {"SECRET_KEY": str(settings.SECRET_KEY), "DATABASES": settings.DATABASES["default"]["PASSWORD"]}
    for name in ("REDIS_URL", "MQTT_URL", "MQTT_ADMIN_URL", "MQTT_BRIDGE_URL"):
        found[name] = unquote(urlsplit(reveal(getattr(settings, name))).password or "")
    return {name: str(text) for name, text in found.items()}


def shown_in(text: str, secrets: dict[str, str]) -> set[str]:
    return {name for name, secret in secrets.items() if secret in text}


@pytest.fixture
def secrets() -> dict[str, str]:
    found = secrets_of(django_settings)
    assert len(found) == 6
    assert all(len(text) > 20 for text in found.values())
    return found


def test_a_secret_url_shows_where_it_leads_and_nothing_else() -> None:
    url = SecretUrl(_URL)
    assert str(url) == "mqtts://********@broker.example:8883/x"
    assert "top" not in f"{url} {url!r} {pformat({'a': [url]})} {url.parts}"
    assert "gwanje-admin" not in repr(url)
    assert (url.parts.scheme, url.parts.hostname, url.parts.port) == ("mqtts", "broker.example", 8883)
    assert url.reveal() == reveal(url) == reveal(_URL) == _URL
    assert url.replace("8883", "8884").reveal().endswith(":8884/x")
    assert str(SecretUrl("redis://host/0?password=secret")) == "redis://host/0?********"
    assert str(SecretUrl("http://[")) == "********"


def test_a_secret_url_is_compared_and_copied_but_not_stored() -> None:
    url = SecretUrl(_URL)
    assert url == SecretUrl(url) == _URL
    assert url != SecretUrl("")
    assert (bool(url), bool(SecretUrl(""))) == (True, False)
    assert copy.deepcopy({"a": url})["a"] is url
    with pytest.raises(TypeError, match="not written"):
        pickle.dumps(url)


def test_a_secret_text_is_a_text_for_libraries() -> None:
    text = SecretText("top secret")
    assert (str(text), f"{text}", text.encode()) == ("top secret", "top secret", b"top secret")
    assert "top" not in f"{text!r} {pformat({'a': [text]})} {[text]}"


def test_diffsettings_shows_no_secret(secrets: dict[str, str]) -> None:
    for output in ("hash", "unified"):
        text = call_command("diffsettings", all=True, output=output)
        assert "MQTT_ADMIN_URL" in text
        assert shown_in(text, secrets) == set()


def test_no_setting_shows_a_secret(secrets: dict[str, str]) -> None:
    shown = {
        name: repr(getattr(django_settings, name))
        for name in dir(django_settings)
        if name.isupper() and shown_in(repr(getattr(django_settings, name)), secrets)
    }
    assert shown.keys() == set()


def pages_of_a_failure() -> list[str]:
    """Return Django's page and text of an error where secrets of the settings are local variables."""
    try:
        url, key = django_settings.MQTT_ADMIN_URL, django_settings.SECRET_KEY
        raise ValueError(f"a page that fails, with {url} and {key!r} in its variables")
    except ValueError as error:
        reporter = ExceptionReporter(RequestFactory().get("/"), type(error), error, error.__traceback__)
        return [reporter.get_traceback_html(), reporter.get_traceback_text()]


def test_the_debug_page_shows_no_secret(db: None, settings: Any, secrets: dict[str, str]) -> None:
    settings.DEBUG = True
    pages = pages_of_a_failure()
    pages.append(Client().get("/nonexistent", headers={"host": "localhost"}).content.decode())
    assert "MQTT_ADMIN_URL" in pages[0]
    assert [shown_in(page, secrets) for page in pages] == [set(), set(), set()]


def test_a_log_shows_no_secret(secrets: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("gwanje.test").error("%s %r", django_settings.REDIS_URL, django_settings.DATABASES)
    assert shown_in(caplog.text, secrets) == set()


def test_plain_texts_would_be_found(settings: Any, secrets: dict[str, str]) -> None:
    settings.MQTT_ADMIN_URL = reveal(settings.MQTT_ADMIN_URL)
    out = io.StringIO()
    out.write(call_command("diffsettings", all=True))
    assert shown_in(out.getvalue(), secrets) == {"MQTT_ADMIN_URL"}
