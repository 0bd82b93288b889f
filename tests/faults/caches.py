"""Rows 13 and 14: faults of Valkey and Vault."""

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import hvac
import requests
from django.conf import settings
from django_redis import get_redis_connection
from django_tenants.utils import schema_context

from devices.services.provisioning.registration import revoke_key
from tests.processes import wait_until

from .fleet import Fleet, Sender
from .ledger import Entry
from .load import Load
from .rows import row
from .scenario import Scenario

_LEAST_THROUGHPUT = 0.9
_REPLAYED = 50
_MESSAGES = 10
_FAULT_SECONDS = 4.0  # longer than the listener waits for an answer


@row("13", "Valkey down, stopped (SIGSTOP), and emptied (FLUSHALL)")
def valkey(scenario: Scenario) -> None:
    """Ingest goes on at its rate, and messages that were stored before are not stored again."""
    scenario.listen()
    windows = {}
    with scenario.load() as load:
        scenario.spend(0.15)
        for name, fault in (("down", _valkey_down), ("stopped", _valkey_stopped), ("emptied", _valkey_emptied)):
            known = list(scenario.message_ledger.acknowledged())[:_REPLAYED]
            with fault(scenario):
                began = time.time()
                for entry in known:
                    load.inject(_again(entry))
                scenario.spend(0.2)
                windows[name] = (began, time.time())
            scenario.spend(0.05)
    result = scenario.settle()
    for name, (began, ended) in windows.items():
        sent = sum(began <= at < ended for at, _, _ in result.lags) / (ended - began)
        share = result.throughput(began, ended) / sent
        scenario.measure(
            f"{name}: {100 * share:.0f} % of the rate, longest lag {result.lag(1, start=began, stop=ended):.2f} s"
        )
        scenario.require_in_time(share >= _LEAST_THROUGHPUT, f"{name}: {100 * share:.0f} % of the rate")
    again = sum(totals["duplicates"] for totals in result.tables.totals.values())
    scenario.measure(f"{3 * _REPLAYED} replays refused")
    scenario.require(again >= 3 * _REPLAYED, f"{again} of {3 * _REPLAYED} replays were found out")


def _again(entry: Entry) -> Entry:
    return Entry(
        entry.schema, entry.device_id, entry.topic, entry.payload, entry.counter, at=entry.at, value=entry.value
    )


@contextmanager
def _valkey_down(scenario: Scenario) -> Iterator[None]:
    scenario.stack.stop_server("valkey")
    try:
        yield
    finally:
        scenario.stack.start_server("valkey")


@contextmanager
def _valkey_stopped(scenario: Scenario) -> Iterator[None]:
    scenario.stack.signal("valkey", signal.SIGSTOP)
    try:
        yield
    finally:
        scenario.stack.signal("valkey", signal.SIGCONT)


@contextmanager
def _valkey_emptied(scenario: Scenario) -> Iterator[None]:
    get_redis_connection("default").flushall()
    yield


@row("14", "Vault sealed, stopped (SIGSTOP), down, and its token revoked")
def vault(scenario: Scenario) -> None:
    """Messages of known devices are stored, of devices with an unread key deferred, of a revoked one refused."""
    # Keys are read again every second, so that each fault has an effect.
    listener = scenario.listen(env={"KEY_CACHE_SOFT_TTL": "1"})
    faults = (_vault_sealed, _vault_stopped, _vault_down, _vault_token_revoked)
    tenant = scenario.fleet.tenants[0]
    strangers = [Fleet.register(tenant, number) for number in range(len(faults))]
    revoked = Fleet.register(tenant, 0)
    scenario.stored_rows.follow(tenant.schema_name, [sender.device_id for sender in [*strangers, revoked]])
    deferred = refused = 0
    began = time.time()
    with scenario.load() as load:
        scenario.spend(0.1)
        _send(load, revoked)
        # A message that is validated after its key was revoked is refused.
        wait_until(lambda: _stored(scenario, revoked) >= _MESSAGES, 60.0, "the device was not heard before")
        _revoke(revoked)
        time.sleep(1.0)  # the listener learns it through Redis
        for fault, stranger in zip(faults, strangers, strict=True):
            with fault(scenario):
                _send(load, stranger)
                refused += _send(load, revoked, good=False)
                time.sleep(max(_FAULT_SECONDS, 0.15 * scenario.seconds))
                deferred += _deferred(scenario, stranger)
            scenario.spend(0.05)
    scenario.settle()
    logins = _logins(scenario, began)
    scenario.measure(
        f"{deferred} messages of unknown devices deferred and stored afterwards, "
        f"{refused} of a revoked device refused, {sum(logins.values())} logins, "
        f"{max(logins.values(), default=0)} in a second at most"
    )
    scenario.require(deferred >= (len(faults) - 1) * _MESSAGES, f"only {deferred} messages were deferred")
    scenario.require(max(logins.values(), default=0) <= 1, "more than one login in a second")
    scenario.require(listener.is_running, "the listener has ended")


def _send(load: Load, sender: Sender, *, good: bool = True) -> int:
    for _ in range(_MESSAGES):
        load.inject(sender.next(fate="stored" if good else "refused"))
    return _MESSAGES


def _revoke(sender: Sender) -> None:
    from devices.models import DeviceCredential

    with schema_context(sender.schema):
        for credential in DeviceCredential.objects.filter(device_id=sender.device_id):
            revoke_key(credential)


def _stored(scenario: Scenario, sender: Sender) -> int:
    rows = scenario.query(
        f'SELECT count(*) FROM "{sender.schema}".telemetry_message WHERE device_id = %s',  # noqa: S608 (our own schema)
        sender.device_id,
    )
    return int(rows[0][0])


def _deferred(scenario: Scenario, sender: Sender) -> int:
    rows = scenario.query(
        f'SELECT coalesce(sum(times), 0) FROM "{sender.schema}".telemetry_quarantined'  # noqa: S608 (our own schema)
        " WHERE reason = 'key_unavailable' AND device_id = %s",
        sender.device_id,
    )
    return int(rows[0][0])


def _root(scenario: Scenario) -> hvac.Client:
    session = requests.Session()
    session.trust_env = False
    client = hvac.Client(url=settings.VAULT_ADDR, timeout=5, session=session)
    client.token = (scenario.stack.var / "openbao" / "root-token").read_text()
    return client


@contextmanager
def _vault_sealed(scenario: Scenario) -> Iterator[None]:
    _root(scenario).sys.seal()
    try:
        yield
    finally:
        scenario.stack.restart("openbao")  # it unseals itself when it starts


@contextmanager
def _vault_stopped(scenario: Scenario) -> Iterator[None]:
    scenario.stack.signal("openbao", signal.SIGSTOP)
    try:
        yield
    finally:
        scenario.stack.signal("openbao", signal.SIGCONT)


@contextmanager
def _vault_down(scenario: Scenario) -> Iterator[None]:
    scenario.stack.stop_server("openbao")
    try:
        yield
    finally:
        scenario.stack.start_server("openbao")


@contextmanager
def _vault_token_revoked(scenario: Scenario) -> Iterator[None]:
    client = _root(scenario)
    for accessor in client.list("auth/token/accessors")["data"]["keys"]:
        data = client.auth.token.lookup_accessor(accessor)["data"]
        if "listener" in data["policies"]:
            client.auth.token.revoke_accessor(accessor)
    yield


def _logins(scenario: Scenario, since: float) -> Counter[int]:
    """Return the listener's logins by second, from Vault's audit log."""
    logins: Counter[int] = Counter()
    for line in (scenario.stack.var / "log" / "openbao-audit.log").read_text().splitlines():
        record = json.loads(line)
        is_login = record["type"] == "response" and record["request"].get("path") == "auth/approle/login"
        if is_login and "listener" in (record.get("auth") or {}).get("policies", ()):
            at = datetime.fromisoformat(record["time"][:19] + "+00:00").timestamp()
            if at >= since:
                logins[int(at)] += 1
    return logins
