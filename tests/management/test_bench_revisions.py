"""The comparison of two revisions in its short form: both are measured and verified, and nothing is left behind."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from tests.benchmarks import revisions
from tests.benchmarks.revisions import Asked, RevisionError
from tests.processes import wait_until

pytestmark = pytest.mark.skipif(
    not (settings.BASE_DIR / ".git").exists(), reason="a copy without the repository has no revisions"
)


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path: sockets lie in it. PostgreSQL of root runs as another user there."""
    with tempfile.TemporaryDirectory(prefix="gr-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
def start(place: Path) -> Callable[[], "subprocess.Popen[str]"]:
    """Start the benchmark of HEAD with itself, which keeps its files in `place`."""

    def start() -> subprocess.Popen[str]:
        options = ["--base", "HEAD", "--rounds", "1", "--devices", "4", "--messages", "2000", "--json"]
        return subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks", "revisions", *options],
            cwd=settings.BASE_DIR,
            env={**os.environ, "TMPDIR": str(place)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def test_both_are_measured_in_one_run(start: Callable[[], Any], place: Path) -> None:
    process = start()
    said, complained = process.communicate(timeout=300)
    assert process.returncode == 0, complained
    figures = json.loads(said)
    [measured] = figures["rounds"]
    assert [measured[label]["messages"] for label in ("base", "head")] == [2000, 2000]
    ratio = measured["head"]["messages_per_s"] / measured["base"]["messages_per_s"]
    assert figures["ratios"]["messages_per_s"] == pytest.approx(ratio, abs=1e-3)
    assert figures["met"] is (figures["ratios"]["messages_per_s"] >= 0.95)
    assert figures["base"]["commit"] == figures["head"]["commit"]
    assert left(place) == []


def test_a_run_that_is_stopped_leaves_nothing(start: Callable[[], Any], place: Path) -> None:
    process = start()
    # In the middle: the servers of a measurement run.
    wait_until(lambda: any(place.glob("*/gwanje-bench-*/embedded.env")), timeout=300)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    assert process.returncode != 0
    assert left(place) == []


def left(directory: Path) -> list[str]:
    """Files, checked out revisions, and processes that have to do with the directory."""
    trees = revisions._git("worktree", "list")
    commands = [command_of(path) for path in Path("/proc").glob("[0-9]*")]
    return [
        *map(str, directory.iterdir()),
        *(line for line in trees.splitlines() if str(directory) in line),
        *(command for command in commands if str(directory) in command),
    ]


def command_of(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace")
    except OSError:  # it has ended meanwhile
        return ""


def test_a_round_compares_what_ran_at_the_same_time() -> None:
    def row(base: float, head: float) -> dict[str, dict[str, float]]:
        return {
            "base": {"messages_per_s": base, "cpu_us_per_message": 50},
            "head": {"messages_per_s": head, "cpu_us_per_message": 40},
        }

    figures = revisions.compare([row(100, 96), row(1000, 960), row(10, 5)])
    assert figures["ratios"] == {"messages_per_s": 0.96, "cpu_us_per_message": 0.8}
    assert figures["medians"]["head"]["messages_per_s"] == 96
    assert figures["met"]
    assert not revisions.compare([row(100, 94)])["met"]


def test_too_few_messages_for_a_ratio_are_refused() -> None:
    measured = {"messages_per_s": 100.0, "cpu_us_per_message": 0.0}
    with pytest.raises(RevisionError, match="--messages"):
        revisions.compare([{"base": measured, "head": measured}])


def test_a_revision_that_is_not_there_is_named() -> None:
    with pytest.raises(RevisionError, match="no revision 'nowhere'"):
        revisions.run(Asked("nowhere"), lambda _text: None)


def test_requirements_are_compared_by_name_and_version() -> None:
    text = "# made\nalpha==1.0\n    # via beta\nbeta[extra]==2.1 ; python_version < '3.12'\n-c other.txt\n"
    assert revisions.pins(text) == {"alpha": "1.0", "beta": "2.1"}
