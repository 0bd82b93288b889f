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

# The metrics that processes record, with the HELP line of each.
HELP_TEXTS = {
    "alarm_episodes": "Open alarms of all tenants.",
    "alarm_lag_seconds": "The longest time from storing a reading to the transition of an alarm in the last second.",
    "alarm_last_pass_timestamp_seconds": "Unix time of the last turn of a process of alarms.",
    "alarm_transitions_total": "Transitions of alarms that were written.",
    "broker_refusals_total": "Connections of listeners that the broker ended before or soon after it accepted them.",
    "checker_behind_seconds": "Seconds since the oldest deadline passed.",
    "checker_deadlines_passed_total": "Expired deadlines that checkers took.",
    "checker_last_pass_timestamp_seconds": "Unix time of the last run of a checker.",
    "checker_timeouts_total": "Expired deadlines that were timeouts.",
    "ingest_batches_total": "Batches that listeners finished.",
    "ingest_broker_lag_seconds": "The longest time that a message waited at the broker in the last second.",
    "ingest_lag_seconds": "The greatest age of the oldest message of a batch in the last second.",
    "ingest_locked": "Messages in the memory of a listener whose tenant is blocked.",
    "ingest_messages_total": "Messages that listeners finished.",
    "ingest_restored_total": "Messages of the overflow table that were stored.",
    "ingest_spilled_total": "Messages that were moved to the overflow table, because their tenant was blocked.",
    "ingest_unrouted_limited_total": "Messages of unregistered publishers beyond their common rate, not stored.",
    "ingest_waiting": "Messages that a listener has read and not stored.",
    "listener_takeovers_total": "Listeners that disconnected each other at the broker: two use one client id.",
    "quota_refused_total": "Objects that were refused, because the quota of their tenant was reached.",
    "retained_cleared_total": "Retained messages of devices that listeners deleted at the broker.",
    "state_requests_dropped_total": "Requests of apps for states that were dropped, because too many waited.",
}


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
        found.append(family(metric, HELP_TEXTS.get(name.decode(), ""), float(value)))
    families: dict[str, GaugeMetricFamily] = {}
    for process, gauges in zip(processes, theirs, strict=True):
        for name, value in sorted(gauges.items()):
            metric = PREFIX + name.decode()
            described = HELP_TEXTS.get(name.decode(), "")
            made = families.setdefault(metric, GaugeMetricFamily(metric, described, labels=["process"]))
            made.add_metric([process], float(value))
    return [*found, *families.values()]
