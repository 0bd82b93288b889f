"""The rules of the demonstration."""

from django_tenants.utils import schema_context

from alarms.models import AlarmRule
from alarms.services.quickstart_rules import install_quickstart_rules

from .conftest import Greenhouse


def test_the_rules_are_installed_once_and_raise(greenhouse: Greenhouse) -> None:
    from alarms.models import AlarmRuleVersion

    with schema_context(greenhouse.tenant.schema_name):
        assert (install_quickstart_rules(), install_quickstart_rules()) == (2, 0)
        AlarmRuleVersion.objects.update(effective_at=greenhouse.begin)
    greenhouse.store((1, 20), (2, 41), (3, 4), (4, 4))
    greenhouse.evaluate()
    found = [(one.rule.name, one.severity, one.state) for one in greenhouse.episodes()]
    assert found == [("Air too warm", "critical", "ENDED"), ("Air too cold", "warning", "ACTIVE")]
    with schema_context(greenhouse.tenant.schema_name):
        AlarmRule.objects.filter(name="Air too cold").update(removed_at=greenhouse.begin)
        assert install_quickstart_rules() == 0, "a rule that a user removed does not come back"
