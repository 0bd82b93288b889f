"""Ingest of two revisions of this repository, measured in turn in one run: has it become slower?

Each revision is checked out beside the other and measured by its own benchmark of ingest, part `one`: the benchmark
imports the platform's modules, whose names differ between revisions. Each measurement has servers of its own, runs the
revision's own listener on the revision's own tables, and verifies every row, or the run ends with what is wrong.
"""

import json
import logging
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from management.embedded.server import BASE_DIR

logger = logging.getLogger(__name__)

# Not slower than this part of what it was.
LEAST = 0.95
# The command of the benchmark, by the file that a revision has it in.
_COMMANDS = {
    "tests/benchmarks/parts/ingest.py": ["-m", "tests.benchmarks", "ingest"],
    "management/management/commands/bench_ingest.py": ["manage.py", "bench_ingest"],  # revisions before 0.2.0
}
_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;]+)")
# Its servers are stopped within this.
_STOP_SECONDS = 90.0


class RevisionError(Exception):
    """A revision cannot be measured; says why."""


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision that is checked out, and the Python with what it requires."""

    name: str
    commit: str
    directory: Path
    python: Path
    command: list[str]


@dataclass(frozen=True, slots=True)
class Asked:
    """What is compared, and how. `base` is the older revision; `devices` and `messages` are of one measurement."""

    base: str
    head: str = "HEAD"
    rounds: int = 4
    devices: int = 1000
    messages: int = 60_000


def run(asked: Asked, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure both in turn (A B, B A, …) and compare. Raises RevisionError; whatever happens, it leaves nothing."""
    commits = {name: _commit_of(name) for name in (asked.base, asked.head)}
    if _git("status", "--porcelain").strip():
        say("There are changes that are not committed; they are not measured.")
    with _workplace() as place:
        base = _check_out(asked.base, commits[asked.base], place / "base", say)
        head = _check_out(asked.head, commits[asked.head], place / "head", say)
        rounds = []
        for number in range(asked.rounds):
            order = [("base", base), ("head", head)]
            if number % 2:  # so that neither always follows the other
                order.reverse()
            measured = {label: _measure(revision, asked, place) for label, revision in order}
            rounds.append(measured)
            speeds = ", ".join(f"{label} {figures['messages_per_s']:,.0f}" for label, figures in measured.items())
            say(f"Round {number + 1}, messages/s: {speeds}")
    return {"base": _named(base), "head": _named(head), "rounds": rounds, **compare(rounds)}


def compare(rounds: Sequence[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Return the medians of both, and of the ratios within the rounds, which hold on a busy machine too.

    Raises RevisionError when a measurement took less processor time than the kernel counts.
    """
    figures = ("messages_per_s", "cpu_us_per_message")
    if any(row["base"][figure] <= 0 for row in rounds for figure in figures):
        raise RevisionError("So few messages take no measurable processor time; choose a greater --messages.")
    ratios = {
        figure: round(statistics.median(row["head"][figure] / row["base"][figure] for row in rounds), 4)
        for figure in figures
    }
    return {
        "medians": {
            label: {figure: round(statistics.median(row[label][figure] for row in rounds), 2) for figure in figures}
            for label in ("base", "head")
        },
        "ratios": ratios,
        "at_least": LEAST,
        "met": ratios["messages_per_s"] >= LEAST,
    }


def pins(requirements: str) -> dict[str, str]:
    """Name → version of a file of exact requirements."""
    return {found[1]: found[2] for line in requirements.splitlines() if (found := _PIN.match(line))}


# --- revisions on the disk --------------------------------------------------------------------------------------


@contextmanager
def checked_out(name: str, say: Callable[[str], None]) -> Iterator[Revision]:
    """Check a revision out beside this one; it is removed at the end. Raises RevisionError."""
    with _workplace() as place:
        yield _check_out(name, _commit_of(name), place / "base", say)


@contextmanager
def _workplace() -> Iterator[Path]:
    """A directory for everything of the run, gone afterwards together with Git's notes of it; SIGTERM ends it too."""
    former = signal.signal(signal.SIGTERM, _interrupt)
    directory = Path(tempfile.mkdtemp(prefix="gwanje-revisions-"))
    # PostgreSQL of root runs as another user inside it.
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        _git("worktree", "prune")
        signal.signal(signal.SIGTERM, former)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _commit_of(name: str) -> str:
    try:
        return _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}").strip()
    except RevisionError:
        words = f"There is no revision {name!r}: name a commit, a branch or a tag of this repository."
        raise RevisionError(words) from None


def _check_out(name: str, commit: str, directory: Path, say: Callable[[str], None]) -> Revision:
    say(f"Checking out {name} ({commit[:10]})")
    _git("worktree", "add", "--detach", "--quiet", str(directory), commit)
    command = next((command for file, command in _COMMANDS.items() if (directory / file).exists()), None)
    if command is None:
        raise RevisionError(f"{name} has no benchmark of ingest, so it cannot be measured.")
    return Revision(name, commit, directory, _python_for(directory, say), command)


def _python_for(directory: Path, say: Callable[[str], None]) -> Path:
    """This program's own where it has all that the revision requires, else one of the revision's own."""
    wanted = pins((directory / "requirements.txt").read_text())
    had = pins((BASE_DIR / "requirements.txt").read_text())
    if wanted.items() <= had.items():
        return Path(sys.executable)
    say("It requires other versions: installing them")
    _call(sys.executable, "-m", "venv", str(directory / ".venv"))
    python = directory / ".venv" / "bin" / "python"
    _call(str(python), "-m", "pip", "install", "--quiet", "-r", str(directory / "requirements.txt"))
    return python


# --- measuring --------------------------------------------------------------------------------------------------


def _measure(revision: Revision, asked: Asked, place: Path) -> dict[str, float]:
    """What the benchmark says of the part `one`. Raises RevisionError with its last words where it failed."""
    options = ["--json", "--only", "one", "--rounds", "1"]
    options += ["--devices", str(asked.devices), "--messages", str(asked.messages)]
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "DJANGO_SETTINGS_MODULE")}
    # In a session of its own: an interruption comes to it from here, and it stops its servers before it is gone.
    process = subprocess.Popen(
        [str(revision.python), *revision.command, *options],
        cwd=revision.directory,
        env={**env, "TMPDIR": str(place)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said, complained = process.communicate()
    finally:
        _stop(process)
    if process.returncode != 0:
        raise RevisionError(f"{revision.name} failed:\n{complained[-3000:]}")
    measured: dict[str, Any] = json.loads(said)["rounds"][0]["one"]
    if measured["messages"] != asked.messages:
        raise RevisionError(f"{revision.name} took {measured['messages']} of {asked.messages} messages")
    return measured


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        logger.error("A measurement did not stop by itself; its servers may be left")
        process.kill()
        process.wait()


def _named(revision: Revision) -> dict[str, str]:
    return {"name": revision.name, "commit": revision.commit}


def _git(*arguments: str) -> str:
    return _call("git", "-C", str(BASE_DIR), *arguments)


def _call(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        words = getattr(error, "stderr", "") or str(error)
        raise RevisionError(f"{' '.join(command)}: {words.strip()}") from error
