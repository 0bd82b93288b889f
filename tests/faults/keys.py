"""Row 15: devices' keys are rotated at load."""

import random
import time

from django_tenants.utils import schema_context

from devices.models import Device
from devices.services.provisioning.registration import rotate_key
from devices.services.vault.secret_store import SecretsUnavailable, reset_provisioner

from .fleet import Sender
from .rows import row
from .scenario import Scenario


@row("15", "keys of all devices rotated at load, Vault restarted in the middle")
def rotated(scenario: Scenario) -> None:
    """No good message is refused: neither under the new key nor, while it is valid, under the old one."""
    scenario.listen()
    waiting = random.sample(scenario.fleet.senders, len(scenario.fleet.senders))
    pause = 0.7 * scenario.seconds / len(waiting)
    done = failed = 0
    with scenario.load():
        scenario.spend(0.1)
        half = len(waiting) // 2
        while waiting:
            began = time.monotonic()
            if len(waiting) == half and not failed:
                failed += _rotate_during_restart(scenario, waiting[-1])
            _rotate(waiting.pop())
            done += 1
            time.sleep(max(0.0, pause - (time.monotonic() - began)))
        scenario.spend(0.1)
    scenario.measure(f"{done} keys rotated, {failed} refused while Vault was down and done afterwards")
    scenario.require(failed == 1, "the rotation did not meet Vault's restart")


def _rotate_during_restart(scenario: Scenario, sender: Sender) -> int:
    """Rotate while Vault is down, which must change nothing. Return 1 when it was refused."""
    scenario.stack.stop_server("openbao")
    try:
        _rotate(sender)
    except SecretsUnavailable:
        return 1
    finally:
        scenario.stack.start_server("openbao")
        reset_provisioner()
    return 0


def _rotate(sender: Sender) -> None:
    """Rotate the device's key; the device signs with the new one at once."""
    with schema_context(sender.schema):
        sender.take(rotate_key(Device.objects.get(pk=sender.device_id)))
