"""The campaign of record in short: real broker, listener and Vault, which is killed in the middle."""

from typing import Any

from management.embedded.stack import EmbeddedStack
from tests.mqtt import RawClient


def test_a_campaign_under_load_refuses_nothing_and_leaves_no_old_key(register: Any, stack: EmbeddedStack) -> None:
    from devices.services.provisioning.registration import IssuedCredentials
    from tests.benchmarks import rotation

    devices = [register(cpu_serial="") for _ in range(20)]
    issued = [IssuedCredentials(d.device.uuid, d.secret, int(d.kid), d.mqtt_password) for d in devices]
    said: list[str] = []
    try:
        figures = rotation.run(
            tenant=devices[0].tenant,
            issued=issued,
            rate=100,
            say=said.append,
            spec_ttl=1.0,
            disturb=lambda: stack.kill("openbao"),
        )
    finally:
        stack.wait_ready("openbao", 20)
        # Its session would collect every later test's messages.
        with RawClient.of_url("MQTT_URL", client_id="listener-of-the-rotation", clean=True):
            pass
    assert (figures["refused"], figures["lost"]) == (0, 0), f"{figures} {said}"
    assert figures["moved"] == 20
    assert figures["messages"] > 300, "the load was too small to show anything"
    assert figures["old_keys_refused"] == 20
    assert figures["old_keys_in_vault"] == 0
