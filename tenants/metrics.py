"""Figures of the platform's processes, as numbers in Redis; `/metrics` shows them in Prometheus' form.

They are of the whole platform and name no tenant. They are kept for looking at: Redis being away loses a few.
"""

import logging
from collections.abc import Mapping

from django_redis import get_redis_connection
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

_KEY = "gwanje:metrics"
PREFIX = "gwanje_"


def record(gauges: Mapping[str, float], counters: Mapping[str, int] | None = None) -> None:
    """Set the gauges and add to the counters (named `…_total`). Redis being away is logged, not raised."""
    try:
        with get_redis_connection("default").pipeline(transaction=False) as pipe:
            pipe.hset(_KEY, mapping={name: repr(float(value)) for name, value in gauges.items()})
            for name, value in (counters or {}).items():
                pipe.hincrby(_KEY, name, value)
            pipe.execute()
    except RedisError as error:
        logger.warning("Figures are not recorded: %s", error)


def as_text() -> str:
    """All figures in Prometheus' text form, in order of name. Raises RedisError."""
    lines = []
    for name, value in sorted(get_redis_connection("default").hgetall(_KEY).items()):
        metric = PREFIX + name.decode()
        lines += [
            f"# TYPE {metric} {'counter' if metric.endswith('_total') else 'gauge'}",
            f"{metric} {value.decode()}",
        ]
    return "".join(f"{line}\n" for line in lines)
