"""Memory settings of long-running processes."""

import ctypes
import gc
import logging

logger = logging.getLogger(__name__)


def give_back_memory() -> None:
    """Return the memory that the start no longer needs to the system, and exclude the rest from collection.

    Imports leave ten megabytes of free memory where modules were compiled, and objects that live as long as the
    process, which the garbage collector would scan at each collection.
    """
    gc.collect()
    gc.freeze()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:  # a C library that is not glibc
        logger.debug("This C library cannot return memory to the system")
