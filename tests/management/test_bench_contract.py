"""The benchmark of the hardware contract verifies itself: here that it still can, on few repetitions."""

import json
import subprocess
import sys

from tests.processes import ROOT


def test_both_ways_say_the_same_and_no_server_is_needed() -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "contract", "--json", "--repeats", "1", "--devices", "100"]
    answer = subprocess.run(command, cwd=ROOT, env={"PATH": ""}, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    figures = json.loads(answer.stdout)
    assert figures["cases"].keys() == {
        "three_metrics",
        "three_metrics_one_converted",
        "three_metrics_and_three_unmapped",
    }
    assert figures["memory"]["devices"] == 100
