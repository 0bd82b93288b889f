"""A bridge as a process of a test: `bridge_process.py CONFIG CLOCK_OFFSET`; prints what it has taken and sent."""

import logging
import sys
import time
from pathlib import Path

from devices.bridge.program import build


def main(config: str, offset: str) -> None:
    """Run until it is killed. The clock of measurements is `offset` seconds apart from the true one."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    bridge, _api = build(Path(config), clock=lambda: time.time() + float(offset))
    bridge.start()
    shown = ""
    while True:
        gateway = bridge.gateway
        text = f"taken {gateway.taken} pending {gateway.pending} connected {gateway.connections}."
        if text != shown:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
            shown = text
        time.sleep(0.05)


if __name__ == "__main__":
    main(*sys.argv[1:])
