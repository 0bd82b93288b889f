"""Conversions as exact fractions: the columns as text, and the rows of metrics that convert computed anew."""

from typing import Any

from django.db import migrations, models

from devices.domain import units


def _computed(sent: str, kept: str, factor: str, offset: str) -> tuple[str, str]:
    """Return the exact conversion; the rounded one where the units do not convert any more."""
    try:
        return tuple(map(str, units.conversion(sent, kept)))  # type: ignore[return-value]
    except units.IncompatibleUnits:
        return factor, offset


def _compute(apps: Any, schema_editor: Any) -> None:
    metric_model, unit_model = apps.get_model("devices", "Metric"), apps.get_model("devices", "Unit")
    rows = list(unit_model.objects.all())
    called = [unit.symbol for unit in rows], [unit.name for unit in rows], [unit.ucum for unit in rows]
    named = [(name, unit.ucum) for names in called for name, unit in zip(names, rows, strict=True)]
    converting = ~models.Q(unit_path="") | models.Q(sent_unit__isnull=False)
    for metric in metric_model.objects.filter(converting, unit__isnull=False).select_related("unit", "sent_unit"):
        kept = metric.unit.ucum
        if metric.sent_unit and metric.sent_unit.ucum != kept:
            metric.factor, metric.offset = _computed(metric.sent_unit.ucum, kept, metric.factor, metric.offset)
        if metric.unit_path:
            found = units.conversions(kept, named)
            metric.conversions = {name: [str(part) for part in pair] for name, pair in found.items()}
        metric.save(update_fields=["factor", "offset", "conversions"])


class Migration(migrations.Migration):
    dependencies = [
        ("devices", "0025_api_key_scopes"),
    ]

    operations = [
        migrations.AlterField(
            model_name="metric",
            name="factor",
            field=models.TextField(default="1", editable=False, verbose_name="factor"),
        ),
        migrations.AlterField(
            model_name="metric",
            name="offset",
            field=models.TextField(default="0", editable=False, verbose_name="offset"),
        ),
        migrations.RunPython(_compute, migrations.RunPython.noop, elidable=True),
    ]
