"""Set-up before the platform's processes start: migrations, schedules, the demonstration tenant."""

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from management.embedded.files import open_private, tail
from management.embedded.server import BASE_DIR

from .programs import manage

_MIGRATE_TENANTS = ("migrate_schemas", "--tenant")
STEPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Bringing the database's tables up to date", ("migrate_schemas", "--shared")),
    ("Bringing the tenants' tables up to date", _MIGRATE_TENANTS),
    ("Installing the workers' schedules", ("install_schedules",)),
    ("Making staff, the tenant demo and its devices, where they are missing", ("quickstart",)),
)


class SetupFailed(Exception):
    """A step failed; the message ends with the last lines of its output."""


def prepare(env: Mapping[str, str], logs: Path, progress: Callable[[str], None]) -> None:
    """Run every step as a process of its own, with its output in `setup.log`. Raises SetupFailed.

    A tenant whose migration fails does not keep the others from being served.
    """
    log = logs / "setup.log"
    for what, arguments in STEPS:
        progress(what)
        offset = log.stat().st_size if log.exists() else 0
        with open_private(log, "ab") as file:
            done = subprocess.run(manage(*arguments), cwd=BASE_DIR, env=dict(env), stdout=file, stderr=file)
        if done.returncode and arguments == _MIGRATE_TENANTS:
            # The others are served: the failed ones are blocked, and named in the console.
            progress(f"Tables of some tenants could not be brought up to date: see the end of {log}")
        elif done.returncode:
            output = tail(log, offset=offset, lines=25)
            raise SetupFailed(f"`manage.py {' '.join(arguments)}` failed. The end of {log}:\n{output}")
