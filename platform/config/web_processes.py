"""Web processes of one uvicorn (`--workers`): they end with it."""

import ctypes
import multiprocessing
import os
import signal

_PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with_parent() -> None:
    """Stop this process when uvicorn's main process ends, even by SIGKILL; nothing where it is the main process.

    A process that outlived it would hold the port, and the main process could not be restarted.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent.pid:  # it ended before the call
        os.kill(os.getpid(), signal.SIGTERM)
