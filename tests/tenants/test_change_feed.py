"""The change feed: what changed since a score, and what is old enough to go."""

import time
from collections.abc import Iterator
from uuid import uuid4

import pytest
from django_redis import get_redis_connection

from tenants.infrastructure.change_feed import ChangeFeed


@pytest.fixture
def key() -> Iterator[str]:
    name = f"gwanje:feed_of_a_test:{uuid4()}"
    yield name
    get_redis_connection("default").delete(name)


def test_changes_since_and_after_a_score(key: str) -> None:
    feed = ChangeFeed(key)
    feed.publish("a")
    first = feed.changes(0, inclusive=True)["a"]
    assert abs(first - time.time() * 1_000_000) < 60_000_000, "microseconds"
    feed.publish("b")
    assert set(feed.changes(first, inclusive=True)) == {"a", "b"}
    assert set(feed.changes(first, inclusive=False)) == {"b"}
    feed.publish("a")
    assert feed.changes(first, inclusive=False)["a"] > first


def test_old_members_go_where_the_feed_has_a_limit(key: str) -> None:
    hour_ago = int((time.time() - 3700) * 1_000_000)
    get_redis_connection("default").zadd(key, {"old": hour_ago})
    ChangeFeed(key).publish("a")
    assert set(ChangeFeed(key).changes(0, inclusive=True)) == {"old", "a"}
    ChangeFeed(key, kept_seconds=3600).publish("b")
    assert set(ChangeFeed(key).changes(0, inclusive=True)) == {"a", "b"}
