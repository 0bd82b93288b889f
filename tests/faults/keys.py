"""Row 15: devices' keys are rotated at load."""

import random
import time

from django_tenants.utils import schema_context

from devices.models import Device
from devices.services.provisioning.registration import rotate_key
from devices.services.vault.secret_store import SecretsUnavailable, reset_provisioner

from .fleet import Sender
from .rows import row
from .scenario import Scene


@row("15", "keys of all devices rotated at load, Vault restarted in the middle")
def rotated(scene: Scene) -> None:
    """No good message is refused: neither under the new key nor, while both are valid, under the old one."""
    scene.listen()
    waiting = random.sample(scene.fleet.senders, len(scene.fleet.senders))
    pause = 0.7 * scene.seconds / len(waiting)
    done = failed = 0
    with scene.load():
        scene.spend(0.1)
        half = len(waiting) // 2
        while waiting:
            began = time.monotonic()
            if len(waiting) == half and not failed:
                failed += _meet_restart(scene, waiting[-1])
            _rotate(waiting.pop())
            done += 1
            time.sleep(max(0.0, pause - (time.monotonic() - began)))
        scene.spend(0.1)
    scene.measure(f"{done} keys rotated, {failed} refused while Vault was down and done afterwards")
    scene.require(failed == 1, "the rotation did not meet Vault's restart")


def _meet_restart(scene: Scene, sender: Sender) -> int:
    """Rotate while Vault is down: nothing may change. Returns 1 when it was refused."""
    scene.stack.stop_server("openbao")
    try:
        _rotate(sender)
    except SecretsUnavailable:
        return 1
    finally:
        scene.stack.start_server("openbao")
        reset_provisioner()
    return 0


def _rotate(sender: Sender) -> None:
    """The device signs with the new key from the moment on at which it has it."""
    with schema_context(sender.schema):
        sender.take(rotate_key(Device.objects.get(pk=sender.device_id)))
