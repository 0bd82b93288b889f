"""Pytest plugin: real servers for the whole run, on free ports, in a directory of their own.

Loaded with `-p tests.servers`, before Django reads its settings. The servers end with the run, and by
themselves when the run is killed.
"""

import atexit
import os
import shutil
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

STACK = EmbeddedStack(VAR, mqtt_port=0, fsync=False)
os.environ.update(STACK.start())
# A time-out that a test waits for.
os.environ.setdefault("PRESENCE_TIMEOUT_SECONDS", "60")


@atexit.register
def _stop() -> None:
    STACK.stop()
    shutil.rmtree(VAR, ignore_errors=True)
