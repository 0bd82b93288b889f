"""Metrics of the platform in Prometheus' format at `/metrics`: of its processes through Redis, and of the hooks.

Metrics of processes name no tenant; some are lost while Redis is unavailable. The tenants' counters come from the hook
`metric_collectors`.
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
# Processes with gauges of their own, scored by the time of their last record.
_PROCESSES = "gwanje:metrics:processes"
_PROCESS_SECONDS = 60
PREFIX = "gwanje_"


def record(gauges: Mapping[str, float], counters: Mapping[str, int] | None = None, *, process: str = "") -> None:
    """Set the gauges and add to the counters (named `…_total`). An unavailable Redis is logged, not raised.

    `process` names one of several processes of a kind: its gauges have a label and expire a minute after the last
    record.
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
        logger.warning("Metrics are not recorded: %s", error)


def as_text() -> bytes:
    """Return all metrics in Prometheus' text format. Without Redis those of the processes are missing."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector())
    return generate_latest(registry)


class _Collector:
    """The collector of `generate_latest`."""

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics of the processes, of Redis and of the hook."""
        try:
            yield from _recorded()
            is_there = 1
        except RedisError as error:
            logger.warning("Metrics of the processes are not shown: %s", error)
            is_there = 0
        yield GaugeMetricFamily(
            f"{PREFIX}redis_up", "Whether Redis answers; without it the metrics of processes are missing.", is_there
        )
        for collect in hooks.metric_collectors:
            yield from collect()


def _recorded() -> list[Metric]:
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
