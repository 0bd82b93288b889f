"""Counters of requests in Redis, in fixed windows of time."""

import logging
import time
from collections.abc import Callable

from django_redis import get_redis_connection
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

# The Unix time that windows are of; tests set another, so that none of them meets the end of a window.
clock: Callable[[], float] = time.time


def count(key: str, *, seconds: int, add: int = 1) -> tuple[int, int]:
    """Add to the window's count; return (count, seconds until the window ends).

    `key` must contain the tenant, because Redis is shared. While Redis is unavailable the count is 0: a request is not
    rejected because it could not be counted.
    """
    window, elapsed = divmod(int(clock()), seconds)
    name = f"gwanje:count:{key}:{window}"
    try:
        pipeline = get_redis_connection("default").pipeline(transaction=False)
        pipeline.incrby(name, add)
        pipeline.expire(name, seconds + 1)
        counted = int(pipeline.execute()[0])
    except RedisError as error:
        logger.warning("Requests are not being counted: %s", error)
        return 0, seconds - elapsed
    return counted, seconds - elapsed
