"""Memory settings of long-running processes."""

import ctypes
import gc
import logging

logger = logging.getLogger(__name__)

# Net new objects between two searches for cyclic garbage. A listener has some thousands of them in its two batches, a
# web process in a page of devices, which are freed without a search: at Python's own 700 it would look at each of them
# several times.
_OBJECTS_BETWEEN_COLLECTIONS = 10_000


def give_back_memory() -> None:
    """Return the memory that the start no longer needs to the system, exclude the rest from collection, and collect
    garbage more rarely.

    Imports leave ten megabytes of free memory where modules were compiled, and objects that live as long as the
    process, which the garbage collector would scan at each collection.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:  # a C library that is not glibc
        logger.debug("This C library cannot return memory to the system")
