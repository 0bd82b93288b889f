"""Runs supervisord so that it ends with the process that started it: python -I supervisord_child.py PPID ARGS…

A file of its own, run by path and isolated, so that nothing of this package is imported into it.
"""

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)
_FILES = 65_536


def _end_with(parent: int) -> None:
    """Be told to stop when the parent's thread that started us ends, however it does."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit("the process that started the supervisor is gone")


def _allow_many_files() -> None:
    """Each connected device is an open file of the broker, and the usual soft limit is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES), hard))


if __name__ == "__main__":
    _end_with(int(sys.argv[1]))
    _allow_many_files()
    from supervisor.supervisord import main

    main(sys.argv[2:])
