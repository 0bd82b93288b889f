"""The memory of a process that runs for long."""

import ctypes
import gc
import logging

logger = logging.getLogger(__name__)


def give_back_memory() -> None:
    """Give back to the system what the start has used and needs no more, and never look at the rest of it again.

    Importing leaves holes of ten megabytes where modules are compiled anew, and objects that live as long as the
    process: the collector of garbage would go through them for ever.
    """
    gc.collect()
    gc.freeze()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:  # a C library that is not glibc
        logger.debug("This system's memory cannot be given back")
