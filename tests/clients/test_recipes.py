"""The programs of docs/recipes.md, run as they are."""

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.documents import FENCED
from tests.processes import ROOT, wait_until

from .conftest import VALUES, Site, run

RECIPES = (ROOT / "docs" / "recipes.md").read_text()
# What each program must print, as a pattern.
PRINTED = {
    "Newest values of all devices": rf"{{device}},dht22,temperature,{VALUES[-1]},°C,20\S+",
    "A copy of all readings in SQLite": rf"{len(VALUES)} readings",
    "Values as they come": rf"{{device}} is warm: {VALUES[-1]} °C",
    "Days in numbers": rf"device \w+ temperature \d{{4}}-\d\d-\d\d {min(VALUES)} \S+ {max(VALUES)} °C",
    "A file of all readings of a month": rf"{len(VALUES)} readings",
    "Devices that are not online, and the reason": r"house 1 UNKNOWN .+",
    "New devices, and their credentials": r"house 1 [0-9a-f-]{36}",
    "Rejected messages, after the mistake is mended": r"0 of 1 stored",
}
ENDLESS = "Values as they come"
# In this order: a device that was never online is one that another recipe registers.
ORDER = sorted(PRINTED, key=lambda title: title != "New devices, and their credentials")


def recipes() -> dict[str, str]:
    """Return the program of each section."""
    sections = re.split(r"^## ", RECIPES, flags=re.MULTILINE)[1:]
    return {section.splitlines()[0]: program(section) for section in sections}


def program(section: str) -> str:
    (found,) = (text for language, text in FENCED.findall(section) if language == "python")
    return str(found)


def test_every_recipe_is_run() -> None:
    assert recipes().keys() == PRINTED.keys()


@pytest.mark.slow
@pytest.mark.parametrize("title", ORDER)
def test_a_recipe(site: Site, python: tuple[str, ...], tmp_path: Path, title: str) -> None:
    (tmp_path / "recipe.py").write_text(recipes()[title])
    pattern = re.compile(rf"^{PRINTED[title].replace('{device}', site.device.uuid)}$", re.MULTILINE)
    command = (*python, "python", "recipe.py")
    if title == ENDLESS:
        assert_prints(pattern, command, tmp_path, site.variables)
    else:
        # A second run continues, or does the same again.
        for _ in range(2):
            printed = run(*command, env=site.variables, cwd=tmp_path)
            assert pattern.search(printed), printed


def assert_prints(pattern: re.Pattern[str], command: Sequence[str], folder: Path, env: dict[str, str]) -> None:
    """Start the command, which does not end, and end it when it has printed the pattern."""
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **env}, stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_until(lambda: pattern.search(log.read_text()) or process.poll() is not None, 300, log.read_text)
        assert process.poll() is None, log.read_text()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
