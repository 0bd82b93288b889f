"""Messages while Vault is sealed, through the whole pipeline, and after it is unsealed."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from django_tenants.utils import schema_context

from management.embedded.stack import EmbeddedStack
from tests.factories import Registered
from tests.payloads import topic, v2
from tests.processes import wait_until

VALUE = {"temp": 21.5, "humidity": 44}


@pytest.fixture
def ingest(live_db: None) -> Iterator[Any]:
    from telemetry.services.ingest.batch_pipeline import build_pipeline

    made = build_pipeline()
    yield made
    made.writer.close()
    made.keyring.close()


@pytest.fixture
def sealed(stack: EmbeddedStack) -> Iterator[Callable[[], None]]:
    """`sealed()` seals Vault; it unseals itself at its next start."""
    server: Any = stack.server("openbao")
    yield lambda: server._client(server._root_token()).sys.seal()
    if not server.is_ready():
        stack.restart("openbao", 20)


def reasons(device: Registered) -> list[str]:
    from telemetry.models import Quarantined

    with schema_context(device.tenant.schema_name):
        return list(Quarantined.objects.filter(topic=topic(device)).order_by("id").values_list("reason", flat=True))


def stored(device: Registered) -> int:
    from telemetry.models import Message

    with schema_context(device.tenant.schema_name):
        return Message.objects.filter(device=device.device).count()


def test_sealed_known_devices_go_on_unknown_ones_wait_revoked_ones_are_refused(
    register: Any, ingest: Any, sealed: Callable[[], None], stack: EmbeddedStack
) -> None:
    from devices.services.provisioning.registration import revoke_key
    from telemetry.services.ingest import deferred_messages
    from telemetry.services.pipeline.results import Incoming

    known, unknown, revoked = register(), register(), register()

    def send(seq: int, *devices: Registered) -> None:
        now = datetime.now(UTC)
        ingest.process([Incoming(topic(device), v2(device, VALUE, seq=seq), now) for device in devices])

    send(1, known, revoked)
    sealed()
    with schema_context(revoked.tenant.schema_name):
        revoke_key(revoked.device.credentials.get())
    ingest.router.forget()
    for seq in (2, 3):
        send(seq, known, unknown, revoked)
    assert (stored(known), reasons(known)) == (3, [])
    assert (stored(unknown), reasons(unknown)) == (0, ["key_unavailable", "key_unavailable"])
    assert (stored(revoked), reasons(revoked)) == (1, ["bad_signature", "bad_signature"])
    assert deferred_messages.replay_deferred(ingest) == 0
    stack.restart("openbao", 20)
    wait_until(lambda: not ingest.keyring.is_vault_unavailable)
    ingest.deferred_schemas |= deferred_messages.find_deferred()
    wait_until(lambda: deferred_messages.replay_deferred(ingest) is not None and stored(unknown) == 2)
    assert reasons(unknown) == []
    assert (stored(revoked), reasons(revoked)) == (1, ["bad_signature", "bad_signature"])
