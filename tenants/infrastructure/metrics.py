"""Figures of the platform, in Prometheus' form at `/metrics`: what its processes note in Redis, and what is provided.

What the processes note names no tenant and is kept for looking at: Redis being away loses a few. The tenants'
counters come from the hook `metric_collectors`.
"""

import logging
import time
from collections.abc import Iterable, Mapping

from django_redis import get_redis_connection
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from redis.exceptions import RedisError

from . import hooks

logger = logging.getLogger(__name__)

_KEY = "gwanje:metrics"
# Processes that have gauges of their own, by when they noted them.
_PROCESSES = "gwanje:metrics:processes"
_PROCESS_SECONDS = 60
PREFIX = "gwanje_"


def record(gauges: Mapping[str, float], counters: Mapping[str, int] | None = None, *, process: str = "") -> None:
    """Set the gauges and add to the counters (named `…_total`). Redis being away is logged, not raised.

    The gauges of a `process` of several of its kind carry its name, and are gone when it has been silent for a while.
    """
    try:
        with get_redis_connection("default").pipeline(transaction=False) as pipe:
            if gauges:
                key = f"{_KEY}:process:{process}" if process else _KEY
                pipe.hset(key, mapping={name: repr(float(value)) for name, value in gauges.items()})
                if process:
                    pipe.expire(key, _PROCESS_SECONDS)
                    pipe.zadd(_PROCESSES, {process: time.time()})
            for name, value in (counters or {}).items():
                pipe.hincrby(_KEY, name, value)
            pipe.execute()
    except RedisError as error:
        logger.warning("Figures are not recorded: %s", error)


def as_text() -> bytes:
    """All figures in Prometheus' text form. Without Redis those of the processes are missing, and say so."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures())
    return generate_latest(registry)


class _Figures:
    """What `generate_latest` asks."""

    def collect(self) -> Iterable[Metric]:
        try:
            yield from _noted()
            is_there = 1
        except RedisError as error:
            logger.warning("Figures of the processes are not shown: %s", error)
            is_there = 0
        yield GaugeMetricFamily(
            f"{PREFIX}redis_up", "Whether Redis answers; without it there are less figures.", is_there
        )
        for collect in hooks.metric_collectors:
            yield from collect()


def _noted() -> list[Metric]:
    redis = get_redis_connection("default")
    redis.zremrangebyscore(_PROCESSES, "-inf", time.time() - _PROCESS_SECONDS)
    processes = [name.decode() for name in redis.zrange(_PROCESSES, 0, -1)]
    with redis.pipeline(transaction=False) as pipe:
        for key in (_KEY, *(f"{_KEY}:process:{name}" for name in processes)):
            pipe.hgetall(key)
        own, *theirs = pipe.execute()
    found: list[Metric] = []
    for name, value in sorted(own.items()):
        metric = PREFIX + name.decode()
        family = CounterMetricFamily if metric.endswith("_total") else GaugeMetricFamily
        found.append(family(metric, "", float(value)))
    families: dict[str, GaugeMetricFamily] = {}
    for process, gauges in zip(processes, theirs, strict=True):
        for name, value in sorted(gauges.items()):
            metric = PREFIX + name.decode()
            made = families.setdefault(metric, GaugeMetricFamily(metric, "", labels=["process"]))
            made.add_metric([process], float(value))
    return [*found, *families.values()]
