"""The table of who may do what, and how one topic filter covers another."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.services.broker.topic_rules import (
    RULES,
    Role,
    covers,
    is_filter,
    is_topic,
    may_publish,
    may_subscribe,
    rules_of,
)

OWN = "6d1f0c1e-0000-4000-8000-000000000001"
OTHER = "6d1f0c1e-0000-4000-8000-000000000002"

DEVICE = rules_of(Role.DEVICE, name=OWN)
APP = rules_of(Role.APP, name="gwj_0123456789", slug="alpha")
PLATFORM = rules_of(Role.PLATFORM)


@pytest.mark.parametrize(
    ("topic", "allowed"),
    [
        (f"telemetry/alpha/{OWN}/dht22", True),
        (f"telemetry/grower@example.com/{OWN}/dht22/status", True),
        (f"device/birth/{OWN}", True),
        (f"device/lwt/{OWN}", True),
        (f"device/lwt/status/{OWN}", True),
        (f"command/alpha/{OWN}/response", True),
        (f"command/alpha/{OWN}/request", False),
        (f"telemetry/alpha/{OTHER}/dht22", False),
        (f"telemetry/{OWN}/{OTHER}/dht22", False),
        (f"telemetry/alpha/{OTHER}/{OWN}", False),
        (f"device/birth/{OTHER}", False),
        (f"device/birth/{OWN}/more", False),
        (f"device/lwt/status/{OTHER}", False),
        (f"client/state/alpha/{OWN}", False),
        ("telemetry/+/" + OWN + "/#", False),
        ("$SYS/broker", False),
        ("", False),
    ],
)
def test_what_a_device_may_publish(topic: str, allowed: bool) -> None:
    assert may_publish(DEVICE, topic) is allowed


@pytest.mark.parametrize(
    ("requested", "allowed"),
    [
        (f"command/alpha/{OWN}/request", True),
        (f"command/+/{OWN}/request", True),
        (f"command/alpha/{OTHER}/request", False),
        ("command/+/+/request", False),
        (f"command/+/{OWN}/#", False),
        (f"command/+/{OWN}/+", False),
        ("command/#", False),
        ("#", False),
        ("+/+/+/+", False),
        (f"$share/x/command/+/{OWN}/request", False),
        ("$share/x", False),
        (f"telemetry/+/{OWN}/#", False),
    ],
)
def test_what_a_device_may_subscribe(requested: str, allowed: bool) -> None:
    assert may_subscribe(DEVICE, requested) is allowed


@pytest.mark.parametrize(
    ("requested", "allowed"),
    [
        ("client/state/alpha/#", True),
        ("client/state/alpha/+", True),
        ("client/state/alpha", True),  # what # means by itself
        ("client/state/beta/#", False),
        ("client/state/+/#", False),
        ("client/state/#", False),
        ("$share/x/client/state/alpha/#", False),
    ],
)
def test_what_an_app_may_subscribe(requested: str, allowed: bool) -> None:
    assert may_subscribe(APP, requested) is allowed


def test_only_the_platform_shares() -> None:
    assert may_subscribe(PLATFORM, "$share/ingest/telemetry/#")
    assert not may_subscribe(PLATFORM, "$share/ingest/#")
    assert not may_subscribe(PLATFORM, "$share/+/telemetry/#")
    assert [role for role in Role if RULES[role].shared] == [Role.PLATFORM]


def test_the_bridge_subscribes_nothing_and_nobody_but_the_administrator_reaches_control() -> None:
    assert RULES[Role.BRIDGE].subscribe == ()
    for role in set(Role) - {Role.ADMIN}:
        rules = rules_of(role, name=OWN, slug="alpha")
        assert not may_publish(rules, "$CONTROL/dynamic-security/v1")
        assert not may_subscribe(rules, "$CONTROL/#")


LEVELS = st.sampled_from(["a", "b", "", "+", "#", "$SYS"])
FILTERS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join).filter(is_filter)
TOPICS = ["/".join(levels) for size in (1, 2, 3, 4, 5) for levels in itertools.product(("a", "b", ""), repeat=size)] + [
    "$SYS",
    "$SYS/a",
    "a/$SYS",
    "c",
    "c/c/c",
]
TOPICS = [topic for topic in TOPICS if is_topic(topic)]


def matches(topic: str, pattern: str) -> bool:
    """MQTT's own meaning of a filter, said in another way."""
    if topic.startswith("$") and pattern[0] in "+#":
        return False
    expression = re.escape(pattern).replace(r"\+", "[^/]*")
    expression = "(/.*)?".join(expression.rsplit("/\\#", 1)) if expression.endswith("/\\#") else expression
    return re.fullmatch(expression.replace(r"\#", ".*"), topic) is not None


@given(FILTERS, FILTERS)
def test_a_filter_covers_another_when_it_matches_all_that_the_other_does(allowed: str, requested: str) -> None:
    """Sound: nothing reaches past. Complete but for filters that say the same in two ways."""
    reached = [topic for topic in TOPICS if matches(topic, requested)]
    if covers(allowed, requested):
        assert all(matches(topic, allowed) for topic in reached)
    elif "$" not in allowed + requested and (allowed, requested) != ("+/#", "#"):  # one in the words of the other
        assert not all(matches(topic, allowed) for topic in reached) or not reached


@given(FILTERS)
def test_a_filter_covers_the_topics_that_it_matches(allowed: str) -> None:
    for topic in TOPICS:
        assert covers(allowed, topic) is matches(topic, allowed)
