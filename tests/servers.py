"""Pytest plugin: real servers for the whole run, on free ports, in a directory of their own.

Loaded with `-p tests.servers`, before Django reads its settings. The servers end with the run, and by
themselves when the run is killed.
"""

import atexit
import os
import shutil
import socket
import tempfile
from pathlib import Path

from management.embedded.stack import EmbeddedStack

VAR = Path(tempfile.mkdtemp(prefix="gwanje-test-"))
# postgres as root runs as another user inside the directory
VAR.chmod(0o755)

for _name in ("DATABASE_URL", "REDIS_URL", "MQTT_URL", "MQTT_ADMIN_URL", "MQTT_BRIDGE_URL", "VAULT_ADDR"):
    # A developer's own servers are not for tests.
    os.environ.pop(_name, None)
os.environ["GWANJE_VAR"] = str(VAR)

with socket.socket() as _probe:
    _probe.bind(("127.0.0.1", 0))
    _MQTT_PORT = _probe.getsockname()[1]

STACK = EmbeddedStack(VAR, mqtt_port=_MQTT_PORT, fsync=False)
os.environ.update(STACK.start())


@atexit.register
def _stop() -> None:
    STACK.stop()
    shutil.rmtree(VAR, ignore_errors=True)
