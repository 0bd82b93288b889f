"""The benchmark of queries in its short form: both ways say the same, and what is measured is what the API runs."""

import json
import subprocess
import sys

from django.conf import settings


def test_a_short_run() -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "queries", "--readings", "140000", "--json"]
    done = subprocess.run(command, cwd=settings.BASE_DIR, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    for name in ("aggregates_of_30_days", "aggregates_of_30_days_when_packed"):
        service, request = figures[name], figures[name]["request"]
        assert service["old"] == request["old"]
        # The request runs the service's statements, and its own.
        assert 0 < service["new"]["pages"] < request["new"]["pages"] < service["old"]["pages"]
        assert service["faster"] == round(service["old"]["ms"] / service["new"]["ms"], 1)
    goals = {goal["goal"]: goal["value"] for goal in figures["goals"]}
    assert goals["30 days by the hour: × faster"] == figures["aggregates_of_30_days"]["faster"]
