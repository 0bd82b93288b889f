"""The memory of a listener's process: modules that it does not load, and memory that it returns."""

import os
import subprocess
import sys

from django.conf import settings

from manage import WITHOUT_PAGES
from management.management.commands.run_mqtt_listener import Command

# What pages and the API are made with.
_FOREIGN = ("django.contrib.admin", "unfold", "rest_framework", "drf_spectacular", "django_q", "pint", "hvac")
_PROGRAM = f"""
import sys
import django
django.setup()
import management.management.commands.run_mqtt_listener
from pathlib import Path
from management.memory import give_back_memory
def resident():
    return int(Path('/proc/self/statm').read_text().split()[1])
before = resident()
give_back_memory()
assert resident() <= before
print([name for name in {_FOREIGN!r} if name in sys.modules])
"""


def test_a_listener_loads_nothing_that_makes_pages() -> None:
    root = settings.BASE_DIR
    env = {**os.environ, "SERVES_PAGES": "0", "PYTHONPATH": f"{root / 'platform'}:{root}"}
    done = subprocess.run([sys.executable, "-c", _PROGRAM], cwd=root, env=env, capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
    assert "run_mqtt_listener" in WITHOUT_PAGES
    assert Command.requires_system_checks == []  # they import every page
