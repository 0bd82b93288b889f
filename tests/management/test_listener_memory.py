"""The memory of a listener's process: modules that it does not load, and memory that it returns."""

import os
import subprocess
import sys

import pytest
from django.conf import settings

from manage import WITHOUT_PAGES

# What pages and the API are made with.
_FOREIGN = ("django.contrib.admin", "unfold", "rest_framework", "drf_spectacular", "django_q", "pint", "hvac")
_PROGRAM = f"""
import sys
import django
django.setup()
import management.management.commands.run_mqtt_listener
from pathlib import Path
from tenants.infrastructure.memory import give_back_memory
def resident():
    return int(Path('/proc/self/statm').read_text().split()[1])
before = resident()
give_back_memory()
assert resident() <= before
print([name for name in {_FOREIGN!r} if name in sys.modules])
"""


def test_a_listener_loads_nothing_that_makes_pages() -> None:
    done = _run_without_pages(_PROGRAM)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
    assert "run_mqtt_listener" in WITHOUT_PAGES


@pytest.mark.parametrize("name", WITHOUT_PAGES)
def test_a_process_without_pages_makes_no_checks_and_loads_no_admin(name: str) -> None:
    program = (
        "import sys, django; django.setup();"
        "from django.core.management import get_commands;"
        "from importlib import import_module;"
        f"Command = import_module(get_commands()[{name!r}] + '.management.commands.{name}').Command;"
        "assert Command.requires_system_checks == [], 'they import every page';"
        "print([name for name in ('django.contrib.admin', 'unfold', 'django_q') if name in sys.modules])"
    )
    done = _run_without_pages(program)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def _run_without_pages(program: str) -> "subprocess.CompletedProcess[str]":
    root = settings.BASE_DIR
    env = {**os.environ, "SERVES_PAGES": "0", "PYTHONPATH": f"{root / 'platform'}:{root}"}
    return subprocess.run([sys.executable, "-c", program], cwd=root, env=env, capture_output=True, text=True)
