"""Metadata, API keys and the audit in the tenant's admin."""

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django_tenants.utils import schema_context

from devices import change_feeds
from devices.models import ApiKey, AuditEntry, ComponentType, HardwareModel, Metric, Unit
from tenants.models import Tenant

from .client import Pages, formset

# The fields of a type and of a metric that a browser always sends.
TYPE = {"key": "new", "name": "New", "invalid_values": "refuse_value", "list_form": "objects", "time_format": "auto"}
WRITTEN = {"number_format": "point", "sentinel_treatment": "skip"}


def test_changes_are_in_the_tenants_audit_and_not_in_djangos_log(pages: Pages, tenant_a: Tenant) -> None:
    before = LogEntry.objects.count()
    values = {"symbol": "°Ré", "name": "Réaumur", "quantity": "temperature", "ucum": "[degRe]"}
    assert pages.post("devices/unit/add/", values).status_code == 302
    with schema_context(tenant_a.schema_name):
        unit = Unit.objects.get(symbol="°Ré")
    pages.post(f"devices/unit/{unit.pk}/change/", values | {"name": "degree Réaumur"})
    pages.post(f"devices/unit/{unit.pk}/change/", values | {"name": "degree Réaumur"})  # changes nothing
    history = pages.get(f"devices/unit/{unit.pk}/history/").content.decode()
    assert "Changed Name." in history
    pages.post(f"devices/unit/{unit.pk}/delete/", {"post": "yes"})
    with schema_context(tenant_a.schema_name):
        entries = AuditEntry.objects.filter(object_type="devices.unit", object_id=str(unit.pk)).order_by("id")
        assert [(entry.action, entry.user_label) for entry in entries] == [
            ("add", "an-admin"),
            ("change", "an-admin"),
            ("delete", "an-admin"),
        ]
    assert LogEntry.objects.count() == before


def test_deleting_many_at_once_is_recorded_and_announced(
    pages: Pages, tenant_a: Tenant, django_capture_on_commit_callbacks: Any
) -> None:
    with schema_context(tenant_a.schema_name):
        units = [Unit.objects.create(symbol=f"u{n}", name="x", quantity="x", ucum="m") for n in range(2)]
    data = {"action": "delete_selected", "_selected_action": [unit.pk for unit in units], "post": "yes"}
    with django_capture_on_commit_callbacks() as callbacks:
        pages.post("devices/unit/", data)
    assert callbacks
    with schema_context(tenant_a.schema_name):
        assert AuditEntry.objects.filter(action="delete", object_type="devices.unit").count() == 2


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"minimum": "5", "maximum": "1"}, "The minimum must not be greater than the maximum."),
        ({"path": "a..b"}, "must not be empty"),
        ({"path": "/a~2"}, "~ must be followed by 0 or 1"),
        ({"key": "no spaces"}, "Use letters, digits, hyphens"),
        ({"unit": "°C", "sent_unit": "hPa"}, "cannot be converted"),
        ({"sent_unit": "hPa"}, "Choose the unit to convert to."),
        ({"value_type": "text", "unit": "°C"}, "Only a number can have a unit and a range."),
        ({"true_value": "ON"}, "Only a boolean metric can have words for true and false."),
    ],
)
def test_a_metric_that_is_wrong_is_said_at_its_field(
    pages: Pages, tenant_a: Tenant, values: dict[str, str], text: str
) -> None:
    with schema_context(tenant_a.schema_name):
        ids = dict(Unit.objects.values_list("symbol", "pk"))
    given = {"key": "t", "path": "value.t", "value_type": "number", **WRITTEN, **values}
    row: dict[str, Any] = {name: ids.get(value, value) for name, value in given.items()}
    answer = pages.post("devices/componenttype/add/", TYPE | formset("metrics", row))
    assert answer.status_code == 200
    (fault,) = [errors for errors in answer.context["inline_admin_formsets"][0].formset.errors if errors]
    assert set(fault) <= set(row) | {"true_value", "sent_unit", "unit"}
    assert text in " ".join(error for errors in fault.values() for error in errors)
    with schema_context(tenant_a.schema_name):
        assert not ComponentType.objects.filter(key="new").exists()


def test_a_component_type_with_its_metrics(pages: Pages, tenant_a: Tenant) -> None:
    with schema_context(tenant_a.schema_name):
        celsius, fahrenheit = Unit.objects.get(symbol="°C"), Unit.objects.get(symbol="°F")
    row = {"key": "t", "path": "value.t", "value_type": "number", "unit": celsius.pk, "sent_unit": fahrenheit.pk}
    row |= WRITTEN | {"sentinels": "-127, N/A"}
    values = {
        "key": "new",
        "name": "New",
        "expected_interval": 90,
        "unmapped": "ignore",
        "invalid_values": "refuse_message",
    }
    values |= {"list_path": "log", "time_path": "ts", "time_format": "ms", "list_form": "objects"}
    assert pages.post("devices/componenttype/add/", values | formset("metrics", row)).status_code == 302
    with schema_context(tenant_a.schema_name):
        metric = Metric.objects.get(component_type__key="new")
        assert metric.factor == "5/9"
        assert (metric.sentinels, metric.number_format) == ("-127, N/A", "point")
        assert metric.component_type.expected_interval == 90
        assert metric.component_type.unmapped == "ignore"
        assert metric.component_type.invalid_values == "refuse_message"
        assert (metric.component_type.list_path, metric.component_type.time_format) == ("log", "ms")


def test_allowed_types_of_a_model_reach_the_listeners(
    pages: Pages, tenant_a: Tenant, django_capture_on_commit_callbacks: Any
) -> None:
    """A row of the many-to-many table announces nothing by itself; the page does."""
    with schema_context(tenant_a.schema_name):
        model, kind = HardwareModel.objects.first(), ComponentType.objects.first()
    assert model is not None
    assert kind is not None
    start = max(change_feeds.spec_changes_since(0).values(), default=0) + 1
    values = {"name": model.name, "version": model.version, "allowed_component_types": [kind.pk]}
    with django_capture_on_commit_callbacks(execute=True):
        assert pages.post(f"devices/hardwaremodel/{model.pk}/change/", values).status_code == 302
    assert tenant_a.schema_name in change_feeds.spec_changes_since(start)


def test_an_api_key_is_shown_once_and_can_be_revoked(pages: Pages, tenant_a: Tenant) -> None:
    answer = pages.post("devices/apikey/add/", {"name": "grafana", "scope": "read"})
    text = answer.context["text"]
    assert text in answer.content.decode()
    assert "no-store" in answer["Cache-Control"]
    with schema_context(tenant_a.schema_name):
        key = ApiKey.find(text)
        assert key is not None
        assert key.created_by_label == "an-admin"
    for path in ("devices/apikey/", f"devices/apikey/{key.pk}/change/", f"devices/apikey/{key.pk}/history/"):
        page = pages.get(path).content.decode()
        assert text not in page
        assert key.digest not in page
    revoke = f"devices/apikey/{key.pk}/revoke/"
    assert pages.get(revoke).status_code == 200
    with schema_context(tenant_a.schema_name):
        assert ApiKey.find(text) is not None
    assert "The key has been revoked." in pages.post(revoke, follow=True).content.decode()
    with schema_context(tenant_a.schema_name):
        assert ApiKey.find(text) is None
        assert list(AuditEntry.objects.values_list("action", flat=True)[:2]) == ["revoke", "issue"]


def test_an_api_key_that_is_past_is_not_issued(pages: Pages, tenant_a: Tenant) -> None:
    values = {"name": "old", "scope": "read", "expires_at_0": "2020-01-01", "expires_at_1": "00:00:00"}
    assert "The time must be in the future." in pages.post("devices/apikey/add/", values).content.decode()
    with schema_context(tenant_a.schema_name):
        assert not ApiKey.objects.filter(name="old").exists()
