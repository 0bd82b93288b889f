"""The benchmark of the API: it verifies what it measures, and prints JSON alone."""

import json
import subprocess
import sys

import pytest

from tests.processes import ROOT


@pytest.mark.slow
def test_it_measures_and_verifies() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.benchmarks", "api", "--json", "--rounds", "1", "--scale", "0.01"),
            *("--devices", "120", "--seconds", "0.5"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout)
    requests = figures["head"]["requests"]
    assert {"latest", "readings_300", "device", "devices_100", "not_found", "healthz", "export"} <= requests.keys()
    assert all(cost["ms"] >= cost["web"] > 0 for cost in requests.values())
    assert figures["head"]["neighbour"]["p95_ms_alone"] > 0
