"""Rules for the demonstration hardware; `make run` installs them where the tenant has none."""

from alarms.models import AlarmRule
from devices.models import Metric

from .rules import add_rule

_WARM = [
    {"severity": "warning", "raise": 30, "clear": 29, "raise_after_seconds": 0, "clear_after_seconds": 60},
    {"severity": "critical", "raise": 40, "clear": 37, "raise_after_seconds": 0, "clear_after_seconds": 60},
]
_COLD = [{"severity": "warning", "raise": 5, "clear": 7, "direction": "below", "raise_after_seconds": 60}]
# Name, component type, metric, levels.
_RULES = (
    ("Air too warm", "dht22", "temperature", _WARM),
    ("Air too cold", "dht22", "temperature", _COLD),
)


def install_quickstart_rules() -> int:
    """Add the rules in the current tenant, if it never had one; return their number."""
    if AlarmRule.objects.exists():
        return 0
    for name, component_type, metric, levels in _RULES:
        found = Metric.objects.select_related("component_type").get(component_type__key=component_type, key=metric)
        add_rule(None, name=name, kind="threshold", component_type=found.component_type, metric=found, levels=levels)
    return len(_RULES)
