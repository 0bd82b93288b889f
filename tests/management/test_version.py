"""`manage.py version` and the places that state the version."""

import os
import re
import subprocess
import sys
from importlib.metadata import version as installed_version

from config.version import read_version
from tests.documents import read
from tests.processes import ROOT


def test_the_command_prints_the_version_without_settings() -> None:
    environment = {"PATH": os.environ["PATH"]}
    command = [sys.executable, "manage.py", "version"]
    output = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    assert output == f"Gwanje {read_version()}\n"
    assert installed_version("django") not in output


def test_the_changelog_has_a_section_for_the_version() -> None:
    assert re.search(rf"^## \[{re.escape(read_version())}\]", read("CHANGELOG.md"), re.MULTILINE)
