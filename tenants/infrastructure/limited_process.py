"""Running a program of this project in a child process with limits of memory and of processor time.

For the interpretation of files that clients choose: whatever a file does to the program, the process that serves other
tenants keeps its memory and its processor.
"""

import signal
import subprocess
import sys
import threading
from pathlib import Path

from .limited_child import OUT_OF_MEMORY

_CHILD = Path(__file__).with_name("limited_child.py")
_AT_ONCE = 2  # programs of this process
_WAIT_SECONDS = 30.0
# The other processes of the machine may leave a child little of the processor.
_SECONDS_PER_CPU_SECOND = 4

_places = threading.BoundedSemaphore(_AT_ONCE)


class MemoryExceeded(Exception):
    """The program needs more memory than it may have."""


class TimeExceeded(Exception):
    """The program needs more processor time than it may have."""


class TooManyPrograms(Exception):
    """As many programs as may run at once have run for longer than the wait."""


class ProgramFailed(Exception):
    """The program ended with an error of its own; the message ends with its output."""


def run_limited(script: Path, arguments: list[str], content: bytes, *, memory: int, seconds: int) -> bytes:
    """Return what the script writes when it reads `content`; `memory` in bytes, `seconds` of processor time.

    The script may use the standard library only. Raises MemoryExceeded, TimeExceeded, TooManyPrograms, ProgramFailed.
    """
    if not _places.acquire(timeout=_WAIT_SECONDS):
        raise TooManyPrograms
    try:
        return _run(script, arguments, content, memory, seconds)
    finally:
        _places.release()


def _run(script: Path, arguments: list[str], content: bytes, memory: int, seconds: int) -> bytes:
    command = [sys.executable, "-I", "-S", str(_CHILD), str(memory), str(seconds), str(script), *arguments]
    try:
        # Without this process' environment, which may contain passwords.
        done = subprocess.run(
            command, input=content, capture_output=True, env={}, timeout=_SECONDS_PER_CPU_SECOND * seconds
        )
    except subprocess.TimeoutExpired as error:
        raise TimeExceeded from error
    if done.returncode == 0:
        return done.stdout
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise TimeExceeded
    # An allocation that fails in C may also end in an abort.
    if done.returncode in (OUT_OF_MEMORY, -signal.SIGSEGV, -signal.SIGABRT) or b"MemoryError" in done.stderr:
        raise MemoryExceeded
    raise ProgramFailed(done.stderr[-2000:].decode(errors="replace"))
