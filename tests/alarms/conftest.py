"""A tenant with a device that sends temperatures, and the evaluation of its alarms."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django_tenants.utils import schema_context

from tests import payloads
from tests.factories import Registered, make_tenant, register_device, remove_tenant

WARNING = {"severity": "warning", "raise": 30, "clear": 29}
CRITICAL = {"severity": "critical", "raise": 40, "clear": 35}


@dataclass
class Greenhouse:
    """The tenant, its device, and one process of alarms that runs by steps."""

    tenant: Any
    device: Registered
    send: Callable[..., Any]
    begin: datetime = field(default_factory=lambda: datetime.now(UTC) - timedelta(hours=2))
    cache: Any = None

    def add_rule(self, *levels: dict[str, Any], effective_at: datetime | None = None, **fields: Any) -> Any:
        """Add a rule for temperatures, effective from `begin` on."""
        from alarms.models import AlarmRuleVersion
        from alarms.services.rules import add_rule
        from devices.models import ComponentType, Metric

        with schema_context(self.tenant.schema_name):
            kind = ComponentType.objects.get(key="dht22")
            metric = Metric.objects.get(component_type=kind, key=fields.pop("metric", "temperature"))
            values = {"name": "too warm", "kind": "threshold", "levels": list(levels or [WARNING])} | fields
            rule = add_rule(None, component_type=kind, metric=metric, **values)
            AlarmRuleVersion.objects.filter(rule=rule).update(effective_at=effective_at or self.begin)
            # A version in the past is for tests only: the rules are read again.
            self.cache = None
        return rule

    def at(self, minutes: float) -> datetime:
        return self.begin + timedelta(minutes=minutes)

    def store(self, *readings: tuple[float, float], device: Registered | None = None) -> None:
        """Store temperatures at minutes after the begin, each by a message, in one batch."""
        sender = device or self.device
        messages = [
            (payloads.topic(sender), payloads.v1(sender, {"temp": value}, timestamp=self.at(minute).isoformat()))
            for minute, value in readings
        ]
        result = self.send(*messages)
        assert result.stored == len(messages), result

    def evaluate(self) -> int:
        """Evaluate until nothing waits; return the number of transitions."""
        from alarms.services.tenant_evaluation import RuleCache, evaluate_step

        self.cache = self.cache or RuleCache()
        transitions = 0
        with schema_context(self.tenant.schema_name):
            while (outcome := evaluate_step(self.cache, time.monotonic())).readings or outcome.has_more:
                transitions += outcome.transitions
        return transitions + outcome.transitions

    def episodes(self, **conditions: Any) -> list[Any]:
        """Return the episodes that were not retracted, in the order of their begins."""
        from alarms.models import AlarmEpisode

        with schema_context(self.tenant.schema_name):
            rows = AlarmEpisode.objects.filter(retracted_at=None, **conditions).order_by("started_at", "pk")
            return list(rows.select_related("rule", "device"))

    def transitions(self, **conditions: Any) -> list[Any]:
        """Return the transitions that are true, in their order."""
        from alarms.models import AlarmTransition

        with schema_context(self.tenant.schema_name):
            rows = AlarmTransition.objects.filter(superseded_at=None, **conditions)
            return list(rows.order_by("at", "rank", "rank_value", "pk"))

    def history(self) -> list[str]:
        """Return the transitions as "minute: state severity"."""
        return [
            f"{(one.at - self.begin).total_seconds() / 60:g}: {one.to_state} {one.severity}".strip()
            for one in self.transitions()
        ]


@pytest.fixture
def tenant(live_db: None) -> Iterator[Any]:
    made = make_tenant("alarms")
    yield made
    remove_tenant(made)


@pytest.fixture
def send(live_db: None) -> Iterator[Callable[..., Any]]:
    """`send((topic, payload), …)`: a batch of the listener; its result."""
    from telemetry.services.ingest.batch_pipeline import build_pipeline
    from telemetry.services.pipeline.results import Incoming

    pipeline = build_pipeline()
    yield lambda *messages: pipeline.process([Incoming(topic, text, datetime.now(UTC)) for topic, text in messages])
    pipeline.writer.close()


@pytest.fixture
def greenhouse(tenant: Any, send: Callable[..., Any]) -> Greenhouse:
    return Greenhouse(tenant, register_device(tenant), send)
