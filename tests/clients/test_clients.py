"""The clients of the repository, built from the OpenAPI document, against a running platform."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.processes import ROOT

from .conftest import VALUES, Site, run
from .unsteady_server import unsteady_server

TASKS = Path(__file__).parent


def expected(site: Site) -> dict[str, Any]:
    """Return what the tasks must print, as far as it does not depend on the time of day."""
    return {
        "who am I": site.device.tenant.slug,
        "a metric of a new component type": True,
        "a device registered once": True,
        "an edit of what was changed meanwhile": [412, "precondition_failed"],
        "newest values": {"dht22 temperature": VALUES[-1]},
        "readings of a day": list(VALUES),
        "highest of a day": max(VALUES),
        "a mirror": list(VALUES),
        "nothing new for the mirror": 0,
        "a stream": ["latest", [VALUES[-1]]],
        "why the device is where it is": ["ONLINE"],
        "a replay": ["done", 1],
        "an export": 1 + len(VALUES),
        "what does not exist": [404, "not_found"],
        "an unsteady server": 201,
    }


def assert_tasks(site: Site, *command: str, env: Mapping[str, str] | None = None) -> None:
    """Run the tasks, and compare what they print with what is in the tenant."""
    with unsteady_server() as unsteady:
        variables = {
            **(env or {}),
            **site.variables,
            "GWANJE_DEVICE": site.device.uuid,
            "UNSTEADY_URL": unsteady.url,
        }
        done = json.loads(run(*command, env=variables).splitlines()[-1])
        devices = done.pop("all devices, two a page")
        assert done == expected(site)
        assert len(devices) == len(set(devices)) >= 2
        assert site.device.uuid in devices
        assert len(unsteady.keys) == 4
        assert len(set(unsteady.keys)) == 1
        assert unsteady.keys[0]


@pytest.mark.slow
def test_a_program_with_the_python_client(site: Site, python: tuple[str, ...], tmp_path: Path) -> None:
    script = str(TASKS / "python_tasks.py")
    run(*python, "--with", "mypy", "mypy", "--strict", "--no-incremental", script, cwd=tmp_path)
    assert_tasks(site, *python, "python", script)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_a_program_with_the_typescript_client(site: Site, tmp_path: Path) -> None:
    run("make", "-o", ".venv/test.stamp", "typescript-client", f"CLIENTS={tmp_path}")
    (package,) = tmp_path.glob("*.tgz")
    shutil.copy(TASKS / "typescript_tasks.ts", tmp_path / "tasks.ts")
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    run("npm", "install", "--no-audit", "--no-fund", str(package), "typescript@5.9.3", "@types/node@20", cwd=tmp_path)
    options = ("--strict", "--target", "es2022", "--module", "nodenext", "--skipLibCheck")
    run("npx", "tsc", *options, "tasks.ts", cwd=tmp_path)
    assert_tasks(site, "node", str(tmp_path / "tasks.js"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_requests_of_the_bruno_collection(site: Site, tmp_path: Path) -> None:
    run("make", "-o", ".venv/test.stamp", "bruno-collection", f"CLIENTS={tmp_path}")
    (cli,) = re.findall(r"^BRUNO := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    variables = ("--env-var", f"baseUrl={site.url}", "--env-var", f"token={site.key}")
    requests = ("whoami/whoami.yml", "devices/devices_list.yml", "quarantine/quarantine_list.yml")
    report = tmp_path / "report.json"
    run("npx", "--yes", cli, "run", *requests, *variables, "--output", str(report), cwd=tmp_path / "bruno")
    answers = [each["response"] for each in json.loads(report.read_text())[0]["results"]]
    assert [answer["status"] for answer in answers] == [200, 200, 200]
    assert answers[0]["data"]["tenant"] == site.device.tenant.slug
