"""EMQX's HTTP authentication: its requests, to the process that answers them."""

import hashlib
import json
import secrets
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import requests
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.utils import timezone
from django_tenants.utils import schema_context

from tests import emqx
from tests.devices.test_app_access import App, issue  # noqa: F401 (a fixture)
from tests.factories import Registered
from tests.processes import Process, free_port, wait_until

pytestmark = pytest.mark.slow

KEY, NEXT_KEY = secrets.token_hex(32), secrets.token_hex(32)


@dataclass
class Broker:
    """EMQX, as the platform sees it."""

    url: str
    key: str = KEY

    def post(self, body: Any, key: str | None = None, **kwargs: Any) -> requests.Response:
        """The configuration's request with this body."""
        headers, _ = emqx.request_of({})
        headers["x-broker-key"] = self.key if key is None else key
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return requests.post(f"{self.url}/emqx/authenticate", data=data, headers=headers, timeout=60, **kwargs)

    def ask(self, name: str, password: str, client_id: str | None = None, address: str = "192.0.2.1") -> Any:
        """What EMQX would hear of a client that connects."""
        values = {"username": name, "password": password, "clientid": name if client_id is None else client_id}
        _, body = emqx.request_of(values | {"peerhost": address})
        answer = self.post(body)
        assert answer.headers["content-type"] == "application/json"
        assert answer.status_code == 200, answer.text
        return answer.json()

    def lets_in(self, name: str, password: str, client_id: str | None = None, address: str = "192.0.2.1") -> bool:
        return bool(self.ask(name, password, client_id, address)["result"] == "allow")


@pytest.fixture(scope="module")
def broker(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The process that answers, for all of these tests."""
    port = free_port()
    log = tmp_path_factory.mktemp("broker") / "login.log"
    env = {"BROKER_KEYS": f"{KEY},{NEXT_KEY}", "BROKER_FAILURES_PER_MINUTE": "20"}
    process = Process("manage.py", "run_broker_login", "--port", str(port), log=log, env=env)
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: answers(url), 180, lambda: log.read_text()[-2000:])
    yield Broker(url)
    # uvicorn finishes, and then ends by the signal that stopped it.
    assert process.stop() == -signal.SIGTERM
    assert "Application shutdown complete" in log.read_text()


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=1).status_code == 401
    except requests.ConnectionError:
        return False


@pytest.fixture
def own(register: Any) -> Registered:
    return register()


# --- Accepted clients ---------------------------------------------------------------------------------------


def test_a_device_is_let_in_as_itself(broker: Broker, own: Registered) -> None:
    assert broker.ask(own.uuid, own.mqtt_password) == {
        "result": "allow",
        "is_superuser": False,
        "client_attrs": {"role": "device", "name": own.uuid},
    }


def test_an_app_is_let_in_as_its_tenants(broker: Broker, issue: Callable[..., App]) -> None:  # noqa: F811
    app = issue()
    assert broker.ask(app.name, app.text) == {
        "result": "allow",
        "is_superuser": False,
        "client_attrs": {"role": "app", "slug": "alpha"},
    }


def test_an_app_is_let_in_until_its_key_expires(broker: Broker, issue: Callable[..., App]) -> None:  # noqa: F811
    ends = timezone.now() + timedelta(hours=1)
    app = issue(expires_at=ends)
    answer = broker.ask(app.name, app.text)
    assert answer["expire_at"] == int(ends.timestamp())
    assert time.time() < answer["expire_at"] < time.time() * 500, "EMQX takes seconds, and refuses what is past"


def test_a_password_that_came_with_its_device_is_checked_by_a_slow_hash(broker: Broker, register: Any) -> None:
    from devices.models import BrokerPassword

    device, made_here = register(mqtt_password="hunter2-of-old"), register()
    assert device.mqtt_password == "hunter2-of-old"
    assert broker.ask(device.uuid, "hunter2-of-old")["result"] == "allow"
    assert broker.ask(device.uuid, "hunter3-of-old")["result"] == "deny"
    with schema_context(device.tenant.schema_name):
        rounds = {str(row.device.uuid): row.rounds for row in BrokerPassword.objects.select_related("device")}
    assert rounds[device.uuid] >= 20_000
    assert rounds[made_here.uuid] == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda d, other: ("", "", ""),
        lambda d, other: (d.uuid, "", d.uuid),
        lambda d, other: (d.uuid, "wrong", d.uuid),
        lambda d, other: (d.uuid, "wr\u00f6ng \U0001f511 \ud800", d.uuid),
        lambda d, other: (d.uuid, other.mqtt_password, d.uuid),
        lambda d, other: (d.uuid, d.secret, d.uuid),
        lambda d, other: (d.uuid, d.mqtt_password, other.uuid),
        lambda d, other: (d.uuid, d.mqtt_password, ""),
        lambda d, other: (d.uuid, d.mqtt_password, "gwanje-listener"),
        lambda d, other: (other.uuid, d.mqtt_password, other.uuid),
        lambda d, other: (d.uuid.upper(), d.mqtt_password, d.uuid.upper()),
        lambda d, other: (d.uuid.replace("-", ""), d.mqtt_password, d.uuid.replace("-", "")),
        lambda d, other: (f"{{{d.uuid}}}", d.mqtt_password, f"{{{d.uuid}}}"),
        lambda d, other: (f"{d.uuid}\n", d.mqtt_password, f"{d.uuid}\n"),
        lambda d, other: (f"{d.uuid}/#", d.mqtt_password, f"{d.uuid}/#"),
        lambda d, other: (str(uuid.uuid4()), d.mqtt_password, None),
        lambda d, other: ("gwanje-platform", d.mqtt_password, "gwanje-platform"),
        lambda d, other: ("gwj_' OR 1=1 --", "x", None),
        lambda d, other: ("\0", "\0", "\0"),
    ],
)
def test_who_is_not_the_device_is_refused(broker: Broker, register: Any, tenant_b: Any, make: Any) -> None:
    own, foreign = register(), register(tenant=tenant_b)
    name, password, client_id = make(own, foreign)
    if "\ud800" not in password:
        assert broker.ask(name, password, client_id, "192.0.2.2") == {"result": "deny"}
    else:  # EMQX's request cannot contain invalid text either: EMQX refuses the client without a request
        assert broker.post({"username": name, "password": password, "clientid": client_id}).status_code in (200, 400)
    assert broker.lets_in(own.uuid, own.mqtt_password)
    assert broker.lets_in(foreign.uuid, foreign.mqtt_password)


def test_who_has_no_valid_key_is_refused(broker: Broker, issue: Callable[..., App], tenant_b: Any) -> None:  # noqa: F811
    from devices.models import ApiKey
    from devices.services.api_keys import revoke_api_key

    app, other, revoked, expired = issue(), issue(tenant_b), issue(), issue()
    with schema_context("t_alpha"):
        revoke_api_key(revoked.key)
        ApiKey.objects.filter(pk=expired.key.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    for name, password in (
        (app.name, "wrong"),
        (app.name, other.text),
        (app.text, app.text),
        (app.name, hashlib.sha256(app.text.encode()).hexdigest()),
        (revoked.name, revoked.text),
        (expired.name, expired.text),
    ):
        assert not broker.lets_in(name, password, address="192.0.2.3")
    assert not broker.lets_in(app.name, app.text, other.name)
    assert broker.lets_in(app.name, app.text)
    assert broker.ask(other.name, other.text)["client_attrs"]["slug"] == "beta-farm"


# --- Clients that are refused from now on -------------------------------------------------------------------


def test_a_device_that_is_switched_off_or_removed_is_refused_at_once(broker: Broker, own: Registered) -> None:
    from devices.services.provisioning.activation import set_active
    from devices.services.provisioning.registration import remove_device

    with schema_context(own.tenant.schema_name):
        for active in (False, True):
            set_active(own.device, active)
            assert broker.lets_in(own.uuid, own.mqtt_password) is active
        remove_device(own.device)
    assert not broker.lets_in(own.uuid, own.mqtt_password)


def test_a_device_without_a_valid_key_is_refused_at_once(broker: Broker, own: Registered) -> None:
    from devices.services.provisioning.registration import revoke_key, rotate_key

    with schema_context(own.tenant.schema_name):
        revoke_key(own.device.credentials.get())
        assert not broker.lets_in(own.uuid, own.mqtt_password)
        rotate_key(own.device, overlap=timedelta(0))
        assert broker.lets_in(own.uuid, own.mqtt_password)
        own.device.credentials.update(not_after=timezone.now())
    assert not broker.lets_in(own.uuid, own.mqtt_password), "all keys have ended"


def test_a_suspended_tenants_devices_and_apps_are_refused(
    broker: Broker,
    register: Any,
    issue: Callable[..., App],  # noqa: F811
    tenant_b: Any,
) -> None:
    from tenants.services.lifecycle import resume_tenant, suspend_tenant

    device, app, neighbour = register(tenant=tenant_b), issue(tenant_b), register()
    suspend_tenant(tenant_b, reason="test")
    try:
        assert not broker.lets_in(device.uuid, device.mqtt_password)
        assert not broker.lets_in(app.name, app.text)
        assert broker.lets_in(neighbour.uuid, neighbour.mqtt_password)
    finally:
        resume_tenant(tenant_b)
    assert broker.lets_in(device.uuid, device.mqtt_password)
    assert broker.lets_in(app.name, app.text)


def test_passwords_and_routes_that_are_missing_are_made(
    broker: Broker,
    own: Registered,
    issue: Callable[..., App],  # noqa: F811
) -> None:
    """After an upgrade, or a restore of one tenant."""
    from devices.models import BrokerPassword
    from devices.services.broker.synchronization import sync_broker
    from tenants.models import AppRoute

    app = issue()
    with schema_context(own.tenant.schema_name):
        BrokerPassword.objects.filter(device=own.device).delete()
    AppRoute.objects.filter(prefix=app.name).delete()
    assert not broker.lets_in(own.uuid, own.mqtt_password)
    assert not broker.lets_in(app.name, app.text)
    assert sync_broker().passwords == 1
    assert broker.lets_in(own.uuid, own.mqtt_password)
    assert broker.lets_in(app.name, app.text)


def test_a_password_is_kept_as_a_salted_hash_only(register: Any) -> None:
    from devices.models import BrokerPassword

    devices = [register(), register()]
    with schema_context(devices[0].tenant.schema_name):
        rows = list(BrokerPassword.objects.filter(device__in=[d.device for d in devices]))
    assert len({bytes(row.salt) for row in rows}) == 2
    kept = b"".join(bytes(row.salt) + bytes(row.digest) for row in rows)
    assert not any(device.mqtt_password.encode() in kept for device in devices)


# --- Cross-device and cross-tenant, through the rules that EMQX would apply ----------------------------------


def test_nobody_reaches_past_the_rules_with_what_was_answered(
    broker: Broker,
    register: Any,
    issue: Callable[..., App],  # noqa: F811
    tenant_b: Any,
) -> None:
    """Publishing, wills and retained messages have the same rules, subscriptions and groups others."""
    own, other, foreign, app = register(), register(), register(tenant=tenant_b), issue()
    acl = emqx.read_acl()
    device = emqx.Client(own.uuid, broker.ask(own.uuid, own.mqtt_password)["client_attrs"])
    client = emqx.Client(app.name, broker.ask(app.name, app.text)["client_attrs"])

    def topics(sender: Registered) -> list[str]:
        slug = sender.tenant.slug
        return [
            f"telemetry/{slug}/{sender.uuid}/dht22",
            f"telemetry/grower@example.com/{sender.uuid}/dht22/status",
            f"device/birth/{sender.uuid}",
            f"device/lwt/{sender.uuid}",
            f"device/lwt/status/{sender.uuid}",
            f"command/{slug}/{sender.uuid}/response",
        ]

    def allowed(who: emqx.Client, action: str, asked: list[str]) -> list[str]:
        return [topic for topic in asked if emqx.evaluate(acl, who, action, topic) == "allow"]

    every = [*topics(own), *topics(other), *topics(foreign)]
    every += [f"client/state/{d.tenant.slug}/{d.uuid}" for d in (own, foreign)]
    every += [f"client/request_state/{d.tenant.slug}/{d.uuid}" for d in (own, foreign)]
    every += [f"command/{d.tenant.slug}/{d.uuid}/request" for d in (own, other, foreign)]
    every += ["$SYS/brokers", "$delayed/1/x", f"telemetry/alpha/{app.name}/dht22"]
    assert allowed(device, "publish", every) == topics(own)
    assert allowed(client, "publish", every) == [f"client/request_state/alpha/{own.uuid}"]

    filters = [*every, "#", "+/#", "command/+/+/request", f"command/+/{own.uuid}/request", "client/state/alpha/#"]
    filters += ["client/state/#", "client/state/+/+", "client/state/beta-farm/#", "$share/ingest/telemetry/#"]
    filters += ["$share/x/#", f"$share/x/command/alpha/{other.uuid}/request", "$share/x/client/state/beta-farm/#"]
    assert allowed(device, "subscribe", filters) == [
        f"command/alpha/{own.uuid}/request",
        f"command/+/{own.uuid}/request",
    ]
    assert allowed(client, "subscribe", filters) == [f"client/state/alpha/{own.uuid}", "client/state/alpha/#"]


# --- The key of the broker ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    ["", "x", KEY[:-1], KEY + "0", KEY.upper(), f"{KEY},{NEXT_KEY}"],
    # The key is another in each process; the tests' names must not be.
    ids=["none", "short", "one less", "one more", "in capitals", "two of them"],
)
def test_without_the_key_nothing_is_said(broker: Broker, own: Registered, key: str) -> None:
    login = {"username": own.uuid, "clientid": own.uuid, "password": own.mqtt_password}
    for answer in (
        broker.post(login, key=key),
        broker.post(b"{", key=key),
        requests.get(f"{broker.url}/anything", headers={"x-broker-key": key}, timeout=60),
        requests.post(f"{broker.url}/emqx/authenticate", json=login, timeout=60),
    ):
        assert (answer.status_code, answer.content) == (401, b"")
        assert "server" not in answer.headers


def test_both_keys_are_valid_while_one_takes_over(broker: Broker, own: Registered) -> None:
    assert Broker(broker.url, NEXT_KEY).lets_in(own.uuid, own.mqtt_password)


@pytest.mark.parametrize("keys", [[], ["short"], [KEY, "short"]])
def test_without_a_long_key_it_does_not_start(settings: Any, keys: list[str]) -> None:
    from devices.api.emqx_auth import EmqxAuthApp
    from devices.services.broker.auth_batcher import AuthBatcher
    from devices.services.broker.auth_throttle import AuthThrottle

    settings.BROKER_KEYS = keys
    with pytest.raises(CommandError, match="at least 32 characters"):
        call_command("run_broker_login", port=free_port())
    with pytest.raises(ImproperlyConfigured, match="at least 32 characters"):
        EmqxAuthApp(keys, AuthBatcher(lambda logins: []), AuthThrottle(0))


def test_it_listens_on_the_loopback(broker: Broker) -> None:
    port = int(broker.url.rpartition(":")[2])
    with open("/proc/net/tcp") as file:
        bound = [line.split()[1] for line in file if line.split()[3] == "0A"]
    assert [address for address in bound if address.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


def test_no_tenants_address_leads_to_it(client: Any, db: None, tenant_a: Any) -> None:
    for address in ("/emqx/authenticate", "/t/alpha/emqx/authenticate", "/t/alpha/api/v1/emqx/authenticate"):
        answer = client.post(address, {}, headers={"x-broker-key": KEY}, content_type="application/json")
        assert answer.status_code == 404


# --- What is not as it should be ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b'{"username": 5}', 400),
        (b'{"username": null, "password": "x"}', 400),
        (b"\xff\xfe", 400),
        (b"[" * 10_000, 400),
        (b"x" * 17_000, 413),
        (b"{}", 200),
    ],
)
def test_a_request_that_is_none_lets_nobody_in(broker: Broker, body: bytes, status: int) -> None:
    answer = broker.post(body)
    assert answer.status_code == status
    assert '"allow"' not in answer.text


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/emqx/authenticate", 405), ("POST", "/", 404)])
def test_another_address_or_method_is_named(broker: Broker, method: str, path: str, status: int) -> None:
    assert requests.request(method, broker.url + path, headers={"x-broker-key": KEY}, timeout=60).status_code == status


def test_without_the_database_nobody_is_let_in_and_everybody_when_it_is_back(
    broker: Broker, own: Registered, stack: Any
) -> None:
    login = {"username": own.uuid, "clientid": own.uuid, "password": own.mqtt_password}
    assert broker.post(login).status_code == 200
    stack.stop_server("postgres")
    try:
        answer = broker.post(login)
        assert answer.status_code == 503
        assert "allow" not in answer.text
    finally:
        stack.start_server("postgres")
    wait_until(lambda: broker.post(login).json().get("result") == "allow", 60)


def test_after_a_restart_of_the_database_the_first_is_let_in(broker: Broker, own: Registered, stack: Any) -> None:
    assert broker.lets_in(own.uuid, own.mqtt_password)
    stack.restart("postgres")
    assert broker.lets_in(own.uuid, own.mqtt_password)


def test_a_database_that_does_not_answer_is_not_waited_for(broker: Broker, own: Registered, stack: Any) -> None:
    login = {"username": own.uuid, "clientid": own.uuid, "password": own.mqtt_password}
    assert broker.post(login).status_code == 200
    stack.signal("postgres", signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(20) as pool:
            statuses = {answer.status_code for answer in pool.map(lambda _: broker.post(login), range(20))}
            assert statuses == {503}
    finally:
        stack.signal("postgres", signal.SIGCONT)
    wait_until(lambda: broker.post(login).json().get("result") == "allow", 60)


def test_a_tenant_whose_tables_are_locked_holds_up_no_other(broker: Broker, register: Any, tenant_b: Any) -> None:
    import psycopg
    from django.db import connection

    locked, free = register(tenant=tenant_b), register()
    login = {"username": locked.uuid, "clientid": locked.uuid, "password": locked.mqtt_password}
    parameters = connection.get_connection_params()
    names = ("host", "port", "user", "password", "dbname")
    with psycopg.connect(**{name: parameters[name] for name in names if name in parameters}) as other:
        other.execute("LOCK TABLE t_beta_farm.devices_device IN ACCESS EXCLUSIVE MODE")
        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(broker.post, login) for _ in range(4)]
            assert all(broker.lets_in(free.uuid, free.mqtt_password) for _ in range(5))
            assert {each.result().status_code for each in waiting} == {503}
    assert broker.lets_in(locked.uuid, locked.mqtt_password)


def test_a_fleet_that_comes_back_at_once_is_let_in_and_nobody_else(
    broker: Broker, register: Any, tenant_b: Any
) -> None:
    fleet = [register(tenant=tenant) for tenant in (None, tenant_b) for _ in range(5)]
    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=32))

    def connect(number: int) -> tuple[bool, bool]:
        device, right = fleet[number % len(fleet)], number % 3 > 0
        body = {"username": device.uuid, "clientid": device.uuid, "peerhost": f"198.51.100.{number % 250}"}
        body["password"] = device.mqtt_password if right else "wrong"
        answer = session.post(f"{broker.url}/emqx/authenticate", json=body, headers={"x-broker-key": KEY}, timeout=60)
        return right, answer.status_code == 200 and answer.json()["result"] == "allow"

    with ThreadPoolExecutor(32) as pool:
        assert all(right == let_in for right, let_in in pool.map(connect, range(600)))


# --- Who tries passwords ------------------------------------------------------------------------------------


def test_who_tries_passwords_locks_out_himself_and_not_the_victim(broker: Broker, register: Any) -> None:
    victim, neighbour, late = register(), register(), register()
    attacker = "203.0.113.7"
    assert broker.lets_in(neighbour.uuid, neighbour.mqtt_password, address=attacker)
    for number in range(25):
        assert not broker.lets_in(victim.uuid, f"guess {number}", address=attacker)
    assert broker.lets_in(victim.uuid, victim.mqtt_password, address="203.0.113.8")
    assert broker.lets_in(victim.uuid, victim.mqtt_password, address=attacker), "it was let in before"
    assert broker.lets_in(neighbour.uuid, neighbour.mqtt_password, address=attacker)
    assert not broker.lets_in(late.uuid, late.mqtt_password, address=attacker), "a stranger there waits a minute"
    assert broker.lets_in(late.uuid, late.mqtt_password, address="203.0.113.8")


def test_who_was_let_in_before_is_asked_about_all_the_same(broker: Broker, own: Registered) -> None:
    from devices.services.provisioning.activation import set_active

    attacker = "203.0.113.9"
    assert broker.lets_in(own.uuid, own.mqtt_password, address=attacker)
    for number in range(21):
        broker.lets_in(own.uuid, f"guess {number}", address=attacker)
    assert broker.lets_in(own.uuid, own.mqtt_password, address=attacker)
    with schema_context(own.tenant.schema_name):
        set_active(own.device, False)
    assert not broker.lets_in(own.uuid, own.mqtt_password, address=attacker)
