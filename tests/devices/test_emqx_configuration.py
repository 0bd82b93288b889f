"""deploy/emqx: parsed, its keys held against those of EMQX 5.8.9, its topic rules against the one table."""

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyhocon import ConfigTree

from devices.services.broker import topic_rules
from devices.services.broker.topic_rules import RULES, Role
from tests import emqx
from tests.processes import ROOT

OWN = "6d1f0c1e-0000-4000-8000-000000000001"
OTHER = "6d1f0c1e-0000-4000-8000-000000000002"
KEY = "gwj_0123456789"


@pytest.fixture(scope="module")
def configuration() -> ConfigTree:
    return emqx.configuration()


# --- Keys ---------------------------------------------------------------------------------------------------


def known_keys() -> dict[str, set[str]]:
    """For each place in the configuration, the keys that its schema has."""
    places: dict[str, set[str]] = {}
    for line in (ROOT / "tests/data/emqx-5.8.9-keys.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            place, _, keys = line.partition(": ")
            places[place] = places[keys[1:]] if keys.startswith("=") else set(keys.split())
    return places


PLACES = known_keys()
ROOTS = {place.split(".")[0].split("[")[0] for place in PLACES}


def kind_of(element: ConfigTree) -> str:
    return str(element.get("backend", None) or element.get("type", None) or element.get("function"))


LISTENERS = ("tcp", "ssl", "ws", "wss")
# Places whose keys are names of one's own.
NAMED = {"zones", "rule_engine.rules", *(f"listeners.{kind}" for kind in LISTENERS)}


def unknown_keys(tree: ConfigTree, place: str = "") -> Iterator[str]:
    """The keys that 5.8.9 has not, with their places."""
    known = ROOTS if not place else {"*"} if place in NAMED else PLACES.get(place, set())
    for raw, value in tree.items():
        key = raw.strip('"')
        if key not in known and "*" not in known:
            yield f"{place}.{key}"
            continue
        inner = f"{place}.{'*' if place in NAMED else key}" if place else key
        for element in value if isinstance(value, list) else [value]:
            if isinstance(element, ConfigTree):
                yield from unknown_keys(element, f"{inner}[{kind_of(element)}]" if isinstance(value, list) else inner)


def test_every_key_is_one_that_emqx_knows(configuration: ConfigTree) -> None:
    assert list(unknown_keys(configuration)) == []


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ("mqtt.keepalive_multiplyer = 2", "mqtt.keepalive_multiplyer"),
        ("authorisation.no_match = deny", ".authorisation"),
        ("zones.devices.mqtt.share = false", "zones.*.mqtt.share"),
        ("listeners.ssl.devices.ssl_options.cert = x", "listeners.ssl.*.ssl_options.cert"),
        ("authentication = [{ backend = http, uri = x }]", "authentication[http].uri"),
        ("authorization.sources = [{ type = file, file = x }]", "authorization.sources[file].file"),
        ("rule_engine.rules.a.actions = [{ function = republish, args { to = x } }]", ".args.to"),
    ],
)
def test_a_misspelt_key_is_found(wrong: str, found: str) -> None:
    from pyhocon import ConfigFactory

    (unknown,) = unknown_keys(ConfigFactory.parse_string(wrong))
    assert unknown.endswith(found)


def test_what_is_to_be_filled_in_is_too_short_for_a_key() -> None:
    from devices.api.emqx_auth import SHORTEST_KEY

    headers, _ = emqx.request_of({})
    assert headers["x-broker-key"].startswith("REPLACE")
    assert len(headers["x-broker-key"]) < SHORTEST_KEY


# --- Settings that would accept unauthenticated clients -----------------------------------------------------


def test_nobody_is_let_in_unasked(configuration: ConfigTree) -> None:
    chain = configuration["authentication"]
    assert [each["backend"] for each in chain] == ["built_in_database", "http"]
    assert all(each.get("enable", True) for each in chain)
    assert configuration["authorization.no_match"] == "deny"
    assert [source["type"] for source in configuration["authorization.sources"]] == ["file"]
    assert not any(listener.get("enable_authn", True) is not True for _, listener in listeners(configuration))


def listeners(configuration: ConfigTree) -> Iterator[tuple[str, Any]]:
    for kind, named in configuration["listeners"].items():
        for name, listener in named.items():
            if listener.get("enable", True):
                yield f"{kind}.{name}", listener


def test_the_open_network_reaches_devices_by_tls_only(configuration: ConfigTree) -> None:
    """The listeners that EMQX opens by itself are closed."""
    assert {name: str(listener["bind"]) for name, listener in listeners(configuration)} == {
        "tcp.platform": "127.0.0.1:1883",
        "ssl.devices": "0.0.0.0:8883",
    }
    assert all(f"{kind}.default" not in dict(listeners(configuration)) for kind in LISTENERS)
    assert configuration["zones.devices.mqtt.shared_subscription"] is False
    assert configuration["listeners.ssl.devices.zone"] == "devices"
    assert "127.0.0.1" in configuration["dashboard.listeners.http.bind"]


def test_a_devices_uuid_is_not_enough_to_keep_it_out(configuration: ConfigTree) -> None:
    assert configuration["flapping_detect.enable"] is False


def test_the_listeners_window_is_larger_than_a_batch(configuration: ConfigTree) -> None:
    from django.conf import settings

    assert int(configuration["zones.platform.mqtt.max_inflight"]) > 2 * settings.INGEST_BATCH_MESSAGES


def test_the_memory_of_one_client_is_bounded(configuration: ConfigTree) -> None:
    devices = configuration["zones.devices"]
    mqtt = devices["mqtt"]
    for name in ("max_subscriptions", "max_inflight", "max_mqueue_len", "max_awaiting_rel"):
        assert 0 < int(mqtt[name]) <= 1000, f"{name}: 0 is unlimited"
    assert mqtt["await_rel_timeout"].seconds <= 60
    assert mqtt["session_expiry_interval"].seconds <= 2 * 3600
    assert str(configuration["mqtt.max_packet_size"]) == "512KB"
    assert devices["force_shutdown.enable"] is True
    # It must hold the unfinished messages that are allowed.
    assert devices["force_shutdown.max_heap_size"] == "16MB"
    assert 512 * mqtt["max_awaiting_rel"] <= 16 * 1024
    assert int(configuration["retainer.backend.max_retained_messages"]) > 0, "0 is unlimited"


def test_emqx_gives_up_after_the_platform_has(configuration: ConfigTree) -> None:
    from devices.services.broker.auth_batcher import AuthBatcher

    asked = configuration["authentication"][1]
    assert asked["request_timeout"].seconds > AuthBatcher(lambda logins: [])._timeout


def test_the_platforms_accounts_have_rules() -> None:
    with (emqx.DEPLOY / "gwanje-accounts.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["user_id"], row["is_superuser"]) for row in rows] == [
        ("gwanje-platform", "false"),
        ("gwanje-bridge", "false"),
    ]
    text = (emqx.DEPLOY / "acl.conf").read_text()
    assert all(f'{{username, "{row["user_id"]}"}}' in text for row in rows)


# --- Topic rules --------------------------------------------------------------------------------------------

CLIENTS = {
    Role.DEVICE: emqx.Client(OWN, {"role": "device", "name": OWN}),
    Role.APP: emqx.Client(KEY, {"role": "app", "slug": "alpha"}),
    Role.PLATFORM: emqx.Client("gwanje-platform", {}),
    Role.BRIDGE: emqx.Client("gwanje-bridge", {}),
}
FIRST = ("telemetry", "device", "command", "client", "broker", "$SYS", "$CONTROL", "$delayed", "x", "")
LATER = ("alpha", "beta", OWN, OTHER, KEY, "birth", "lwt", "status", "state", "request_state", "request", "response",
         "event", "dht22", "")  # fmt: skip
SHAPES = [
    "telemetry/{t}/{d}/dht22", "telemetry/{t}/{d}/dht22/status", "telemetry/{t}/{d}", "telemetry/{t}",
    "device/birth/{d}", "device/birth/{d}/x", "device/lwt/{d}", "device/lwt/status/{d}", "device/{t}/{d}", "device/lwt",
    "command/{t}/{d}/request", "command/{t}/{d}/response", "command/{t}/{d}", "command/{t}/{d}/request/x",
    "client/state/{t}/{d}", "client/state/{t}", "client/request_state/{t}/{d}", "client/request_state/{t}/{d}/x",
    "broker/event/{d}", "$SYS/brokers/{d}", "$CONTROL/dynamic-security/v1", "$delayed/1/telemetry/{t}/{d}/dht22",
]  # fmt: skip
TENANTS = ("alpha", "beta", "grower@example.com", "", OWN)
DEVICES = (OWN, OTHER, KEY, "alpha", "")
TOPICS = sorted(
    {shape.format(t=t, d=d) for shape in SHAPES for t in TENANTS for d in DEVICES}
    | {
        "/".join([first, *rest])
        for first in FIRST
        for size in (0, 1, 2)
        for rest in itertools.product(LATER, repeat=size)
    }
)
FILTERS = sorted(
    {shape.format(t=t, d=d) for shape in SHAPES for t in (*TENANTS, "+") for d in (*DEVICES, "+")}
    | {f"{shape.format(t=t, d=d).rsplit('/', n)[0]}/{end}"
       for shape in SHAPES for t in ("alpha", "beta", "+") for d in (OWN, OTHER, "+") for n in (1, 2) for end in "+#"}
    | {"#", "+", "+/#", "+/+", "+/+/+/+", "telemetry/#", "device/#", "command/#", "client/#", "broker/#", "$SYS/#"}
)  # fmt: skip


@pytest.mark.parametrize("role", CLIENTS)
def test_emqxs_rules_say_what_the_table_says(role: Role) -> None:
    """Thousands of topics and filters: each allowed by both or refused by both."""
    acl, client = emqx.read_acl(), CLIENTS[role]
    rules = topic_rules.rules_of(role, name=client.username, slug="alpha")
    for topic in TOPICS:
        allowed = "allow" if topic_rules.is_topic(topic) and topic_rules.may_publish(rules, topic) else "deny"
        assert emqx.evaluate(acl, client, "publish", topic) == allowed or not topic_rules.is_topic(topic), topic
    for requested in filter(topic_rules.is_filter, FILTERS):
        allowed = "allow" if topic_rules.may_subscribe(rules, requested) else "deny"
        assert emqx.evaluate(acl, client, "subscribe", requested) == allowed, requested


@pytest.mark.parametrize("role", CLIENTS)
def test_every_rule_of_the_table_is_in_emqxs(role: Role) -> None:
    acl, client = emqx.read_acl(), CLIENTS[role]
    rules = topic_rules.rules_of(role, name=client.username, slug="alpha")
    for pattern in rules.subscribe:
        assert emqx.evaluate(acl, client, "subscribe", pattern) == "allow"
        assert emqx.evaluate(acl, client, "subscribe", f"$share/ingest/{pattern}") == "allow"
    for pattern in rules.publish:
        topic = pattern.replace("+", "x").replace("#", "x")
        assert emqx.evaluate(acl, client, "publish", topic) == "allow"


@pytest.mark.parametrize(
    "client",
    [
        emqx.Client(OWN, {}),
        emqx.Client(OWN, {"name": OWN, "slug": "alpha"}),
        emqx.Client(OWN, {"role": "device"}),
        emqx.Client(KEY, {"role": "app"}),
        emqx.Client(KEY, {"role": "platform", "name": OWN, "slug": "alpha"}),
        emqx.Client("gwanje-admin", {}),
    ],
)
def test_who_lacks_an_attribute_may_do_nothing(client: emqx.Client) -> None:
    acl = emqx.read_acl()
    assert {emqx.evaluate(acl, client, "publish", topic) for topic in TOPICS} == {"deny"}
    assert {emqx.evaluate(acl, client, "subscribe", requested) for requested in FILTERS} == {"deny"}


def test_nobody_subscribes_by_a_filter_that_ends_in_a_plus() -> None:
    """EMQX would take a request that ends in # for one that it covers."""
    assert not [pattern for rules in RULES.values() for pattern in rules.subscribe if pattern.endswith("+")]


def test_the_reader_refuses_what_is_no_rule(tmp_path: Path) -> None:
    for text in ("{deny, all}", '{allow, all, publish ["x"]}.', "{deny, all}. ;"):
        file = tmp_path / "acl.conf"
        file.write_text(text)
        with pytest.raises((ValueError, StopIteration)):
            emqx.read_acl(file)
