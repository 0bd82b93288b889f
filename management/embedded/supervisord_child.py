"""Program that runs supervisord and ends it with its parent: python -I supervisord_child.py PPID ARGS…

It is run by path in isolated mode, so that it imports nothing of this package.
"""

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)
_FILES = 65_536


def _end_with(parent: int) -> None:
    """Request SIGTERM from the kernel for the moment when the parent's starting thread ends."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit("the process that started the supervisor is gone")


def _allow_many_files() -> None:
    """Raise the soft limit of open files: each connected device is one at the broker, and 1024 is usual."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES), hard))


if __name__ == "__main__":
    _end_with(int(sys.argv[1]))
    _allow_many_files()
    os.umask(0o077)  # logs may contain names and addresses of a tenant's devices
    from supervisor.supervisord import main

    main(sys.argv[2:])
