"""Keys in memory, over a real Vault that is sealed, stopped, frozen, slow, or takes its token back."""

import gc
import os
import secrets
import signal
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from management.embedded.stack import EmbeddedStack
from tests.processes import wait_until

pytestmark = pytest.mark.slow

SCHEMA = "t_keyring"


@pytest.fixture(scope="module")
def written() -> Callable[..., UUID]:
    """Write a device's secret to Vault: `written("text")`; a list makes several versions."""
    from devices.services.vault.secret_store import SecretStore

    store = SecretStore("provisioner")

    def write(*versions: str) -> UUID:
        uuid = uuid4()
        for secret in versions:
            store.write(SCHEMA, uuid, secret=secret, mqtt_password="p")
        return uuid

    return write


@pytest.fixture
def make() -> Iterator[Callable[..., Any]]:
    from devices.services.vault.secret_store import SecretStore
    from telemetry.services.lookups.keyring import Keyring

    made = []

    def keyring(*, soft_ttl: float = 300, hard_ttl: float = 86400) -> Any:
        made.append(Keyring(SecretStore("listener"), soft_ttl=soft_ttl, hard_ttl=hard_ttl))
        return made[-1]

    yield keyring
    for one in made:
        one.close()


@pytest.fixture
def vault(stack: EmbeddedStack) -> Iterator[Any]:
    """The server's root, for what no role may do. Whatever a test does to the server, it serves afterwards."""
    yield stack.server("openbao")._client(stack.server("openbao")._root_token())  # type: ignore[attr-defined]
    if stack.pid("openbao"):
        stack.signal("openbao", signal.SIGCONT)
    if not stack.server("openbao").is_ready():
        stack.restart("openbao", 20)  # sealed: it unseals itself at its start


def spec(uuid: UUID, *versions: int, ended: int = 0) -> Any:
    """What a keyring looks at in a device's specification."""
    end = datetime.now(UTC) - timedelta(seconds=1)
    keys = [SimpleNamespace(version=version, not_after=end if version == ended else None) for version in versions]
    return SimpleNamespace(tenant=SimpleNamespace(schema=SCHEMA), uuid=uuid, number=uuid.int, keys=keys)


def took(call: Callable[[], Any]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def unavailable(keyring: Any, uuid: UUID) -> None:
    from telemetry.services.lookups.keyring import KeyUnavailable

    with pytest.raises(KeyUnavailable):
        keyring.get(SCHEMA, uuid, 1)


def test_keys_come_by_version_and_what_ended_is_not_read_ahead(make: Any, written: Any) -> None:
    uuid = written("first", "second", "third")
    keyring = make()
    keyring.prefetch([spec(uuid, 3, 2, 1, ended=1)])
    assert len(keyring) == 2
    assert [keyring.get(SCHEMA, uuid, version) for version in (1, 2, 3, 4)] == [b"first", b"second", b"third", None]
    assert keyring.get("t_other", uuid, 1) is None, "another tenant's path is another device"


def test_a_batch_of_unknown_devices_is_read_at_a_time(make: Any, written: Any) -> None:
    """Each read is one request; that they overlap shows in the connections that Vault sees."""
    uuids = [written(f"secret {n}") for n in range(60)]
    keyring = make()
    keyring.prefetch([spec(uuid, 1) for uuid in uuids])
    assert [keyring.get(SCHEMA, uuid, 1) for uuid in uuids] == [f"secret {n}".encode() for n in range(60)]
    assert not keyring._pending


def test_known_keys_live_on_until_the_hard_limit_while_vault_is_down(
    make: Any, written: Any, vault: Any, stack: EmbeddedStack
) -> None:
    known, unknown = written("known"), written("unknown")
    keyring = make(soft_ttl=0, hard_ttl=3)
    keyring.prefetch([spec(known, 1)])
    read = time.monotonic()
    stack.stop_server("openbao")
    keyring.prefetch([spec(known, 1), spec(unknown, 1)])
    assert keyring.get(SCHEMA, known, 1) == b"known"
    unavailable(keyring, unknown)
    assert keyring.is_vault_unavailable
    while time.monotonic() < read + 2:
        keyring.prefetch([spec(known, 1)])
        assert keyring.get(SCHEMA, known, 1) == b"known"
        time.sleep(0.2)
    wait_until(lambda: keyring.prefetch([]) or len(keyring) == 0, 60)
    unavailable(keyring, known)


def test_unsealed_again_it_is_found_out_without_a_question_from_the_queue(
    make: Any, written: Any, vault: Any, stack: EmbeddedStack, caplog: Any
) -> None:
    known, uuid = written("known"), written("s")
    keyring = make()
    keyring.prefetch([spec(known, 1)])
    vault.sys.seal()
    keyring.prefetch([spec(known, 1), spec(uuid, 1)])
    assert "503" in caplog.text, "a sealed Vault says so"
    assert keyring.is_vault_unavailable
    assert keyring.get(SCHEMA, known, 1) == b"known"
    unavailable(keyring, uuid)
    stack.restart("openbao", 20)
    wait_until(lambda: not keyring.is_vault_unavailable)
    keyring.prefetch([spec(uuid, 1)])
    assert keyring.get(SCHEMA, uuid, 1) == b"s"


def test_a_frozen_vault_costs_one_wait_however_many_ask(
    make: Any, written: Any, vault: Any, stack: EmbeddedStack, settings: Any
) -> None:
    settings.VAULT_TIMEOUT = 0.5
    known, uuids = written("known"), [written("s") for _ in range(20)]
    keyring = make()
    keyring.prefetch([spec(known, 1)])
    stack.signal("openbao", signal.SIGSTOP)

    def waits_in_three_seconds() -> int:
        """How many questions took about as long as the timeout."""
        waits, until = 0, time.monotonic() + 3
        while time.monotonic() < until:
            asked = [lambda: keyring.prefetch([spec(known, 1), *(spec(uuid, 1) for uuid in uuids)])]
            asked += [partial(unavailable, keyring, uuid) for uuid in uuids]
            waits += sum(took(ask) > 0.4 for ask in asked)
            assert keyring.get(SCHEMA, known, 1) == b"known"
            time.sleep(0.02)
        return waits

    assert waits_in_three_seconds() <= 1
    stack.signal("openbao", signal.SIGCONT)
    wait_until(lambda: not keyring.is_vault_unavailable)
    keyring.prefetch([spec(uuid, 1) for uuid in uuids])
    assert {keyring.get(SCHEMA, uuid, 1) for uuid in uuids} == {b"s"}


def test_a_token_that_was_taken_back_is_replaced(make: Any, written: Any, vault: Any) -> None:
    first, second = written("1"), written("2")
    keyring = make()
    keyring.prefetch([spec(first, 1)])
    time.sleep(1)  # no role logs in twice within a second
    vault.auth.token.revoke(keyring._reader._store._vault._login.token())
    keyring.prefetch([spec(second, 1)])
    assert keyring.get(SCHEMA, second, 1) == b"2"


def test_a_role_that_is_refused_logs_in_at_most_once_a_second(
    make: Any, written: Any, vault: Any, stack: EmbeddedStack
) -> None:
    """The role may log in and read nothing any more: every read is refused, and a new token does not help."""
    uuids = [written("s") for _ in range(30)]
    log = stack.var / "log" / "openbao-audit.log"

    def logins() -> int:
        return log.read_text().count('"path":"auth/approle/login"')

    vault.sys.create_or_update_policy("listener", 'path "nothing" { capabilities = ["read"] }')
    try:
        keyring = make()
        before, began = logins(), time.monotonic()
        while time.monotonic() < began + 2.5:
            keyring.prefetch([spec(uuid, 1) for uuid in uuids])
            time.sleep(0.05)
        attempts = (logins() - before) / 2  # a request and a response each
        assert 1 <= attempts <= time.monotonic() - began + 1
        unavailable(keyring, uuids[0])
    finally:
        stack.server("openbao").configure()
    wait_until(lambda: not keyring.is_vault_unavailable)
    keyring.prefetch([spec(uuid, 1) for uuid in uuids])
    assert keyring.get(SCHEMA, uuids[0], 1) == b"s"


def test_a_destroyed_key_is_gone_after_the_soft_limit(make: Any, written: Any) -> None:
    from devices.services.vault.secret_store import SecretStore

    uuid = written("first", "second")
    keyring = make(soft_ttl=1)
    keyring.prefetch([spec(uuid, 2, 1)])
    SecretStore("provisioner").destroy(SCHEMA, uuid, [1])
    assert keyring.get(SCHEMA, uuid, 1) == b"first"
    wait_until(lambda: keyring.prefetch([]) or keyring.get(SCHEMA, uuid, 1) is None)
    assert keyring.get(SCHEMA, uuid, 2) == b"second"


def test_a_key_that_is_read_again_unchanged_stays_the_same_object(make: Any) -> None:
    keyring, uuid = make(), uuid4()
    for at, key in enumerate((b"the key", bytes(bytearray(b"the key")), b"another key")):
        keyring._store((SCHEMA, uuid, 1), key, at)
        if at == 0:
            first = keyring.get(SCHEMA, uuid, 1)
        assert (keyring.get(SCHEMA, uuid, 1) is first) is (at < 2)
    assert keyring.get(SCHEMA, uuid, 1) == b"another key"
    assert keyring._tables[SCHEMA][1].read_at[uuid.int] == 2


def test_a_hundred_thousand_keys_are_small_and_a_look_up_allocates_nothing(make: Any) -> None:
    keyring, uuids = make(), [uuid4() for _ in range(100_000)]
    tracemalloc.start()
    for number, uuid in enumerate(uuids):
        keyring._store((SCHEMA, uuid, 1), f"{number:043}".encode(), 0)
    size = tracemalloc.get_traced_memory()[0]
    get, uuid = keyring.get, uuids[500]
    gc.collect()
    tracemalloc.reset_peak()
    before = sys.getallocatedblocks()
    for _ in range(1000):
        get(SCHEMA, uuid, 1)
    grown = sys.getallocatedblocks() - before
    tracemalloc.stop()
    assert size < 20_000_000
    assert grown < 100


def test_no_secret_is_shown(make: Any, written: Any, caplog: Any) -> None:
    canary = secrets.token_hex(16)
    uuid = written(canary)
    keyring = make()
    keyring.prefetch([spec(uuid, 1)])
    assert keyring.get(SCHEMA, uuid, 1) == canary.encode()
    shown = f"{keyring!r} {keyring._reader!r} {keyring._reader._store.read(SCHEMA, uuid)!r} {caplog.text}"
    assert canary not in shown
    assert canary not in os.environ.get("VAULT_ADDR", "")
