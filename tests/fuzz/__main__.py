"""`python -m tests.fuzz --seconds 3600`: fuzz until the time is over; each finding names its target and seed."""

import argparse
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "platform"))


def main() -> int:
    from .targets import TARGETS, attempt

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--target", choices=TARGETS, action="append")
    options = parser.parse_args()
    names = options.target or list(TARGETS)
    done: dict[str, Any] = {name: {"inputs": 0, "taken": 0, "findings": []} for name in names}
    until, seed = time.monotonic() + options.seconds, options.first_seed
    while time.monotonic() < until:
        for name in names:
            result = done[name]
            result["inputs"] += 1
            try:
                result["taken"] += attempt(name, seed)
            except Exception as error:  # noqa: BLE001 (whatever it is, it is what we look for)
                if len(result["findings"]) < 20:
                    result["findings"].append({"seed": seed, "error": f"{type(error).__name__}: {error}"[:300]})
                    traceback.print_exc()
        seed += 1
    sys.stdout.write(json.dumps({"seconds": options.seconds, "next_seed": seed, "targets": done}, indent=2) + "\n")
    return 1 if any(result["findings"] for result in done.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
