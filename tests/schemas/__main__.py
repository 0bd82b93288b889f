"""`make schemas`: record what the migrations make of an empty public schema and of a tenant's, on a server of its own.

It starts the server before the settings are read.
"""

import os
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "platform"))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

from tests.benchmarks.servers import own_servers


def record_schemas() -> None:
    """Write the files that `tenants.services.recorded_schemas` replays."""
    with own_servers("postgres", "valkey", on_progress=print):
        # They need the settings, which need the servers.
        from tests.schemas.recording import record

        for path in record():
            print(path)  # noqa: T201 (a command's answer)


if __name__ == "__main__":
    record_schemas()
