"""The event stream on a real server: resumed without gap or double, closed to strangers, and cheap to watch."""

import asyncio
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django_tenants.utils import schema_context

from management.embedded.stack import EmbeddedStack
from tests.factories import Registered
from tests.processes import wait_until
from tests.redis_recovery import wait_for_redis

from .event_stream_client import POOL_SIZE, Stream, Web


def change(device: Registered, *kinds: str) -> None:
    """Signals of the device, each a change, and notified: numbered and said to watchers."""
    from devices.services.presence.state_machine import Signal
    from devices.services.presence.state_store import apply_signals

    schema = device.tenant.schema_name
    for kind in kinds:
        now = datetime.now(UTC)
        apply_signals(schema, [(device.device.pk, Signal(kind, now))], now)  # type: ignore[arg-type]
        number_changes(schema)


def number_changes(schema: str) -> None:
    """Let watchers know of all changes that there are."""
    from devices.services.notifications.outbox import publish_changes

    while publish_changes(schema, lambda _: None):
        pass


def last_position(tenant: Any) -> int:
    from devices.services.notifications import status_feed

    with schema_context(tenant.schema_name):
        return status_feed.last_position()


@pytest.fixture(scope="module")
def web(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    server = Web(tmp_path_factory.mktemp("web") / "web.log", env={"STREAMS_PER_KEY": "100"})
    yield server
    server.process.stop()


@pytest.fixture
def key(live_db: None) -> Callable[..., Any]:
    """`key(tenant)`: an API key of the tenant, and its text."""
    from devices.services.api_keys import issue_api_key

    def make(tenant: Any) -> Any:
        with schema_context(tenant.schema_name):
            issued, text = issue_api_key(name="a watcher")
        return issued, text

    return make


@pytest.fixture
def watch(web: Web, key: Callable[..., Any], tenant_a: Any, tenant_b: Any) -> Iterator[Callable[..., Stream]]:
    """`watch(tenant, query, headers)`: a stream of the tenant's events."""
    for tenant in (tenant_a, tenant_b):
        number_changes(tenant.schema_name)  # those that other tests have left
    keys: dict[str, str] = {}
    with ExitStack() as opened:

        def make(tenant: Any, query: str = "", *, port: int = 0, timeout: float = 5, **headers: str) -> Stream:
            text = keys.get(tenant.slug) or keys.setdefault(tenant.slug, key(tenant)[1])
            sent = {"Authorization": f"Bearer {text}", **{n.replace("_", "-"): v for n, v in headers.items()}}
            return opened.enter_context(
                Stream(port or web.port, f"/t/{tenant.slug}/api/v1/events/{query}", sent, timeout)
            )

        yield make


def test_a_change_is_seen_as_it_happens(register: Any, watch: Callable[..., Stream], tenant_a: Any) -> None:
    device = register()
    stream = watch(tenant_a)
    assert stream.response.headers["Cache-Control"] == "no-store"
    assert stream.begin == last_position(tenant_a)
    change(device, "birth")
    event = stream.event()  # within its five seconds: the ledger is read again after thirty
    assert stream.ids == [last_position(tenant_a)]
    for name in ("evidence_at", "at"):
        assert abs((datetime.now(UTC) - datetime.fromisoformat(event.pop(name))).total_seconds()) < 5
    assert event == {
        "device": device.uuid, "from": "UNKNOWN", "to": "ONLINE", "cause": "birth", "session": "",
        "suppressed_by": None,
    }  # fmt: skip


def test_quiet_changes_are_seen_and_marked(register: Any, watch: Callable[..., Stream], tenant_a: Any) -> None:
    from devices.models import MaintenanceWindow

    device, now = register(), datetime.now(UTC)
    with schema_context(tenant_a.schema_name):
        MaintenanceWindow.objects.create(device=device.device, starts_at=now, ends_at=now + timedelta(minutes=1))
    stream = watch(tenant_a)
    change(device, "birth")
    assert stream.event()["suppressed_by"] == "maintenance"


def test_a_stream_is_resumed_over_a_restart_of_the_server(
    register: Any, watch: Callable[..., Stream], tmp_path: Path, tenant_a: Any
) -> None:
    device, server = register(), Web(tmp_path / "web.log")
    first = watch(tenant_a, port=server.port)
    change(device, "birth", "will")
    assert first.events(2) == [(device.uuid, "ONLINE"), (device.uuid, "OFFLINE")]
    assert server.process.stop(5) == -signal.SIGTERM, "an open stream does not keep the server from ending"
    change(device, "birth")
    server = Web(tmp_path / "web.log", server.port)
    try:
        change(device, "will")
        second = watch(tenant_a, port=server.port, Last_Event_ID=str(first.ids[-1]))
        change(device, "birth")
        assert second.events(3) == [(device.uuid, "ONLINE"), (device.uuid, "OFFLINE"), (device.uuid, "ONLINE")]
        assert second.ids == [first.ids[-1] + n for n in (1, 2, 3)]
        assert second.is_silent()
    finally:
        server.process.stop()


def test_the_header_is_newer_than_the_query(register: Any, watch: Callable[..., Stream], tenant_a: Any) -> None:
    device = register()
    begin = last_position(tenant_a)
    change(device, "birth", "will", "birth")
    stream = watch(tenant_a, f"?last_event_id={begin}", Last_Event_ID=str(begin + 2))
    assert stream.events(1) == [(device.uuid, "ONLINE")]
    assert stream.ids == [begin + 3]


def test_streams_that_begin_while_changes_happen_have_neither_gap_nor_double(
    register: Any, watch: Callable[..., Stream], tenant_a: Any
) -> None:
    devices = [register() for _ in range(3)]
    begin = last_position(tenant_a)
    streams = []
    for _ in range(10):
        for device in devices:
            change(device, "birth", "will")
        streams.append(watch(tenant_a, f"?last_event_id={begin}"))
    change(devices[0], "birth")
    end = last_position(tenant_a)
    assert end - begin == 61
    for stream in streams:
        stream.events(end - begin)
        assert stream.ids == list(range(begin + 1, end + 1))


def test_a_stream_of_one_device_holds_nothing_of_another(
    register: Any, watch: Callable[..., Stream], tenant_a: Any
) -> None:
    wanted, other = register(), register()
    begin = last_position(tenant_a)
    change(other, "birth")
    change(wanted, "birth")
    stream = watch(tenant_a, f"?device={wanted.uuid}&last_event_id={begin}")
    change(other, "will")
    change(wanted, "will")
    assert stream.events(2) == [(wanted.uuid, "ONLINE"), (wanted.uuid, "OFFLINE")]
    assert stream.is_silent()


def test_a_stream_holds_nothing_of_another_tenant(
    register: Any, web: Web, watch: Callable[..., Stream], key: Callable[..., Any], tenant_a: Any, tenant_b: Any
) -> None:
    own, foreign = register(), register(tenant=tenant_b)
    ours, theirs = watch(tenant_a, "?last_event_id=0"), watch(tenant_b, "?last_event_id=0")
    change(foreign, "birth")
    change(own, "birth")
    for stream, device, stranger in ((ours, own, foreign), (theirs, foreign, own)):
        seen = set()
        while device.uuid not in seen:
            seen.add(stream.event()["device"])
        assert stream.is_silent()
        assert stranger.uuid not in seen
    _, text = key(tenant_b)
    assert web.get("/t/alpha/api/v1/events/", Authorization=f"Bearer {text}") == 401
    assert web.get(f"/t/beta-farm/api/v1/events/?device={own.uuid}", Authorization=f"Bearer {text}") == 404


def test_sixty_watchers_leave_the_database_to_others(
    register: Any, web: Web, watch: Callable[..., Stream], key: Callable[..., Any], tenant_a: Any, tenant_b: Any
) -> None:
    from devices.services.notifications.stream_hub import READER_THREADS

    text, others, files_before = key(tenant_a)[1], subscribers(), files(web)
    streams = [watch(tenant, timeout=60) for _ in range(30) for tenant in (tenant_a, tenant_b)]
    assert web.connections() <= POOL_SIZE
    times = []
    for _ in range(10):
        began = time.monotonic()
        assert web.get("/t/alpha/api/v1/devices/?limit=1", Authorization=f"Bearer {text}") == 200
        times.append(time.monotonic() - began)
    assert sorted(times)[5] < 5, times
    devices = {"alpha": register(), "beta-farm": register(tenant=tenant_b)}
    for device in devices.values():
        change(device, "birth")
    for number, stream in enumerate(streams):
        assert stream.event()["device"] == devices["beta-farm" if number % 2 else "alpha"].uuid
    assert web.connections() <= POOL_SIZE
    assert subscribers() == others + 1
    assert threads(web) <= READER_THREADS + 16
    assert files(web) <= files_before + 60 + POOL_SIZE + 8
    for stream in streams:
        stream.close()
    wait_until(lambda: subscribers() == others)


def threads(web: Web) -> int:
    """How many threads the web server has."""
    return len(list(Path(f"/proc/{web.process.popen.pid}/task").iterdir()))


def files(web: Web) -> int:
    """How many files and connections the web server has open."""
    return len(list(Path(f"/proc/{web.process.popen.pid}/fd").iterdir()))


def subscribers() -> int:
    """How many connections of Redis listen to channels."""
    from django_redis import get_redis_connection

    return len(get_redis_connection("default").client_list(_type="pubsub"))


def test_streams_of_a_key_and_of_a_tenant_are_counted(
    register: Any, key: Callable[..., Any], tmp_path: Path, tenant_a: Any, tenant_b: Any
) -> None:
    """Over two web servers together; another key and another tenant have room."""
    from django_redis import get_redis_connection

    redis = get_redis_connection("default")
    for name in redis.scan_iter("gwanje:concurrency:*"):  # of servers that earlier tests have stopped
        redis.delete(name)
    env = {"STREAMS_PER_KEY": "3", "STREAMS_PER_TENANT": "4"}
    servers = [Web(tmp_path / f"web-{number}.log", env=env) for number in range(2)]
    keys = [key(tenant)[1] for tenant in (tenant_a, tenant_a, tenant_b)]

    def opened(text: str, slug: str = "alpha", number: int = 0) -> Stream:
        headers = {"Authorization": f"Bearer {text}"}
        return Stream(servers[number % 2].port, f"/t/{slug}/api/v1/events/", headers)

    try:
        with ExitStack() as streams:
            first = streams.enter_context(opened(keys[0]))
            for number in (1, 2):
                streams.enter_context(opened(keys[0], number=number))
            assert refusal(opened(keys[0])) == (429, "too_many_at_once", "At most 3 at a time of this API key")
            streams.enter_context(opened(keys[1]))
            assert refusal(opened(keys[1], number=1)) == (429, "too_many_at_once", "At most 4 at a time of this tenant")
            streams.enter_context(opened(keys[2], "beta-farm"))
            first.close()
            with wait_until(lambda: admitted(opened(keys[0]))):
                assert refusal(opened(keys[0]))[0] == 429
    finally:
        for server in servers:
            server.process.stop()


def refusal(stream: Stream) -> tuple[int, str, str]:
    """The status, code and beginning of the text of a refused stream."""
    response = stream.response
    assert int(response.headers["Retry-After"]) > 0
    error = json.loads(response.read())
    return response.status, error["code"], error["detail"].partition(":")[0]


def admitted(stream: Stream) -> Stream | None:
    if stream.response.status == 200:
        return stream
    stream.close()
    return None


@pytest.mark.parametrize("how", ["key", "tenant", "all"])
def test_streams_end_when_they_are_told_to_check(
    register: Any, web: Web, key: Callable[..., Any], tenant_a: Any, tenant_b: Any, how: str
) -> None:
    """Long before the regular check; a stream whose permission holds goes on."""
    from devices.models import ApiKey
    from devices.services.notifications.stream_hub import end_streams

    device, (issued, text), (_other, others) = register(), key(tenant_a), key(tenant_a)
    headers = {"Authorization": f"Bearer {text}"}, {"Authorization": f"Bearer {others}"}
    with ExitStack() as opened:
        ended, kept = (opened.enter_context(Stream(web.port, "/t/alpha/api/v1/events/", one)) for one in headers)
        with schema_context(tenant_a.schema_name):
            ApiKey.objects.filter(pk=issued.pk).update(revoked_at=datetime.now(UTC))
        chosen = {"key": {"key_id": issued.pk}, "tenant": {"schema": tenant_a.schema_name}, "all": {}}[how]
        end_streams(**chosen)
        assert ended.ends()  # within its five seconds, of thirty
        change(device, "birth")
        assert kept.events(1) == [(device.uuid, "ONLINE")]


def test_without_redis_the_ledger_is_followed(
    register: Any, watch: Callable[..., Stream], stack: EmbeddedStack, tenant_a: Any
) -> None:
    device = register()
    stream = watch(tenant_a, timeout=60)
    change(device, "birth")
    assert stream.events(1) == [(device.uuid, "ONLINE")]
    stack.stop_server("valkey")
    try:
        late = watch(tenant_a, timeout=60)
        change(device, "will")
        for one in (stream, late):
            assert one.events(1) == [(device.uuid, "OFFLINE")]
    finally:
        stack.start_server("valkey")
        wait_for_redis()
    change(device, "birth")
    for one in (stream, late):
        assert one.events(1) == [(device.uuid, "ONLINE")]
    assert stream.is_silent()


@pytest.mark.parametrize(
    ("query", "headers", "attr"),
    [
        ("?last_event_id=x", {}, "last_event_id"),
        ("?last_event_id=-1", {}, "last_event_id"),
        ("", {"Last-Event-ID": "4.5"}, "Last-Event-ID"),
        ("?device=x", {}, "device"),
        ("?since=1", {}, "since"),
    ],
)
def test_what_cannot_be_followed_is_refused(
    db: None, tenant_a: Any, query: str, headers: dict[str, str], attr: str
) -> None:
    from tests.api.client import Api, problems
    from tests.factories import issue_key

    client = Api(tenant_a.slug, key=issue_key(tenant_a))._client
    answer = client.get(f"/t/alpha/api/v1/events/{query}", headers={"Accept": "text/event-stream", **headers})
    assert (answer.status_code, answer["Content-Type"]) == (400, "application/problem+json")
    assert attr in problems(answer)


def test_a_browser_watches_with_its_session(register: Any, web: Web, tenant_a: Any) -> None:
    from django.test import Client

    from tests.factories import make_user

    device, browser = register(), Client()
    user = make_user(f"watcher-{os.urandom(4).hex()}", tenant_a, "viewer")
    browser.force_login(user)
    cookie = f"sessionid={browser.cookies['sessionid'].value}"
    headers = {"Cookie": cookie, "Accept": "text/event-stream"}
    with Stream(web.port, "/t/alpha/api/v1/events/", headers) as stream:
        change(device, "birth")
        assert stream.events(1) == [(device.uuid, "ONLINE")]
    assert web.get("/t/beta-farm/api/v1/events/", **headers) == 403
    user.delete()


def test_an_id_from_the_future_is_taken_for_now(register: Any, watch: Callable[..., Stream], tenant_a: Any) -> None:
    device = register()
    stream = watch(tenant_a, Last_Event_ID=str(2**62))
    change(device, "birth")
    assert stream.events(1) == [(device.uuid, "ONLINE")]


# --- While it lasts: in the test's own process, with shorter times ------------------------------------------


@dataclass(frozen=True)
class Person:
    """A watcher whose permission is a function."""

    may_watch: Callable[[], bool]
    key_id: int = 0
    user_id: int = 0
    session: str = ""
    expires_at: datetime | None = None
    visible: frozenset[str] | None = None

    def visible_uuids(self) -> frozenset[str] | None:
        return self.visible

    def seconds_left(self) -> float:
        return math.inf if self.expires_at is None else (self.expires_at - datetime.now(UTC)).total_seconds()


def follow(tenant: Any, watcher: Any, seconds: float, after: int | None = None) -> tuple[str, bool]:
    """What a stream says within this time, and whether it ended by itself."""
    from devices.services.notifications import event_stream

    begin = last_position(tenant) if after is None else after
    said: list[str] = []

    async def read() -> None:
        async for text in event_stream.events(tenant.schema_name, begin, None, watcher):
            said.append(text)

    async def run() -> bool:
        try:
            await asyncio.wait_for(read(), seconds)
        except TimeoutError:
            return False
        return True

    ended = asyncio.run(run())
    return "".join(said), ended


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    from devices.services.notifications import event_stream

    monkeypatch.setattr(event_stream, "KEEP_ALIVE_SECONDS", 0.2)
    monkeypatch.setattr(event_stream, "CHECK_SECONDS", 0.1)


def test_a_silent_stream_is_kept_alive(live_db: None, hurried: None, tenant_a: Any) -> None:
    text, ended = follow(tenant_a, Person(lambda: True), 0.9)
    assert not ended
    assert 2 <= text.count(": still here\n\n") <= 4


def test_what_redis_lost_is_read_with_the_next_check(register: Any, hurried: None, tenant_a: Any) -> None:
    from devices.services.notifications import status_feed

    device, begin = register(), last_position(tenant_a)
    asked: list[bool] = []

    def may_watch() -> bool:
        if not asked:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(status_feed, "announce", lambda *_: None)
                change(device, "birth")
        asked.append(True)
        return True

    text, _ = follow(tenant_a, Person(may_watch), 0.7, after=begin)
    assert text.count(f"id: {begin + 1}\nevent: status\n") == 1


def test_a_stream_has_the_changes_of_visible_devices_only(register: Any, tenant_a: Any) -> None:
    """Those of the ledger, and those that happen meanwhile."""
    from devices.services.notifications import event_stream

    hidden, visible, begin = register(), register(), last_position(tenant_a)
    change(hidden, "birth")
    change(visible, "birth")
    said: list[str] = []

    async def read() -> None:
        watcher = Person(lambda: True, visible=frozenset([visible.uuid]))
        stream: Any = event_stream.events(tenant_a.schema_name, begin, None, watcher)
        async for text in stream:
            said.append(text)
            if len(said) == 2:
                await asyncio.to_thread(change_and_close, hidden, ["will"])
                await asyncio.to_thread(change_and_close, visible, ["will"])
            if len(said) == 3:
                await stream.aclose()

    asyncio.run(asyncio.wait_for(read(), 20))
    assert [visible.uuid in text for text in said[1:]] == [True, True]
    assert not any(hidden.uuid in text for text in said)


def test_a_stream_whose_queue_overflows_reads_the_ledger(
    register: Any, monkeypatch: pytest.MonkeyPatch, tenant_a: Any
) -> None:
    """A slow reader: the queue stays bounded, and nothing is lost or doubled."""
    from devices.services.notifications import event_stream, stream_hub

    monkeypatch.setattr(stream_hub, "QUEUE_EVENTS", 5)
    device, begin = register(), last_position(tenant_a)
    said: list[str] = []

    async def read() -> None:
        stream: Any = event_stream.events(tenant_a.schema_name, begin, None, Person(lambda: True))
        async for text in stream:
            said.append(text)
            if text.startswith("retry"):
                continue
            if len(said) == 2:  # the stream waits here while others happen
                await asyncio.to_thread(change_and_close, device, ["will", "birth"] * 10)
                await asyncio.sleep(0.2)
                (subscriber,) = next(iter(stream_hub.hub()._subscribers.values()))
                assert len(subscriber._events) <= 5
                assert subscriber.must_read
            if len(said) == 22:
                await stream.aclose()
                return

    async def run() -> None:
        reader = asyncio.create_task(read())
        await asyncio.sleep(0.3)
        await asyncio.to_thread(change_and_close, device, ["birth"])
        await asyncio.wait_for(reader, 20)

    asyncio.run(run())
    assert [int(text.partition("\n")[0][4:]) for text in said[1:]] == list(range(begin + 1, begin + 22))


def change_and_close(device: Registered, kinds: list[str]) -> None:
    from django.db import connections

    change(device, *kinds)
    connections.close_all()


def test_the_stream_ends_with_the_key(hurried: None, key: Callable[..., Any], tenant_a: Any) -> None:
    from devices.api.access import StreamAccess
    from devices.services.api_keys import revoke_api_key

    issued, _ = key(tenant_a)
    watcher = StreamAccess(tenant_a.pk, key_id=issued.pk)
    assert not follow(tenant_a, watcher, 0.5)[1]
    with schema_context(tenant_a.schema_name):
        revoke_api_key(issued)
    assert follow(tenant_a, watcher, 5)[1]


@pytest.fixture
def member(live_db: None, tenant_a: Any) -> Iterator[Any]:
    """A member of tenant A who is logged in: (user, watcher)."""
    from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY

    from devices.api.access import StreamAccess
    from tenants.services.session_store import SessionStore
    from tests.factories import make_user

    user, session = make_user(f"watcher-{os.urandom(4).hex()}", tenant_a, "viewer"), SessionStore()
    session[SESSION_KEY], session[HASH_SESSION_KEY] = str(user.pk), user.get_session_auth_hash()
    session.save()
    yield user, session, StreamAccess(tenant_a.pk, user_id=user.pk, session=session.session_key or "")
    user.delete()


@pytest.mark.parametrize("how", ["membership", "session", "inactive", "expired"])
def test_the_stream_ends_with_the_membership_or_the_session(member: Any, tenant_a: Any, how: str) -> None:
    user, session, watcher = member
    with schema_context(tenant_a.schema_name):
        assert watcher.may_watch()
    if how == "membership":
        user.memberships.all().delete()
    elif how == "session":
        session.delete()
    elif how == "expired":
        session.set_expiry(datetime.now(UTC) - timedelta(seconds=1))
        session.save()
    else:
        user.is_active = False
        user.save()
    with schema_context(tenant_a.schema_name):
        assert not watcher.may_watch()


def test_the_stream_ends_when_its_key_expires(key: Callable[..., Any], tenant_a: Any) -> None:
    """Long before its next check, and without an announcement."""
    from devices.api.access import StreamAccess
    from devices.models import ApiKey
    from devices.services.notifications import event_stream

    own, end = key(tenant_a)[0], datetime.now(UTC) + timedelta(seconds=2)
    with schema_context(tenant_a.schema_name):
        ApiKey.objects.filter(pk=own.pk).update(expires_at=end)
    began = datetime.now(UTC)
    assert event_stream.CHECK_SECONDS == 30
    assert follow(tenant_a, StreamAccess(tenant_a.pk, key_id=own.pk, expires_at=end), 20)[1]
    assert datetime.now(UTC) - began < timedelta(seconds=20)


@pytest.mark.parametrize("how", ["revoked key", "suspended tenant"])
def test_the_stream_ends_when_it_is_announced(key: Callable[..., Any], tenant_b: Any, how: str) -> None:
    """Long before its next check."""
    from devices.api.access import StreamAccess
    from devices.services.api_keys import revoke_api_key
    from tenants.services.lifecycle import resume_tenant, suspend_tenant

    own = key(tenant_b)[0]

    def revoke() -> None:
        if how == "suspended tenant":
            suspend_tenant(tenant_b, reason="test")
        else:
            with schema_context(tenant_b.schema_name):
                revoke_api_key(own)
        connection.close()

    later = threading.Timer(1.0, revoke)
    later.start()
    try:
        assert follow(tenant_b, StreamAccess(tenant_b.pk, key_id=own.pk), 20)[1]
    finally:
        later.join()
        resume_tenant(tenant_b)


def test_the_stream_ends_with_the_tenants_service(key: Callable[..., Any], tenant_b: Any) -> None:
    from devices.api.access import StreamAccess
    from tenants.services.lifecycle import resume_tenant, suspend_tenant

    watcher = StreamAccess(tenant_b.pk, key_id=key(tenant_b)[0].pk)
    suspend_tenant(tenant_b, reason="test")
    try:
        with schema_context(tenant_b.schema_name):
            assert not watcher.may_watch()
    finally:
        resume_tenant(tenant_b)
    with schema_context(tenant_b.schema_name):
        assert watcher.may_watch()
