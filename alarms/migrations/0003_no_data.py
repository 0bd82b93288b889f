import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("alarms", "0002_shelved_until"),
        ("devices", "0037_path_help"),
    ]

    operations = [
        migrations.CreateModel(
            name="ListenerOutage",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("starts_at", models.DateTimeField()),
                ("ends_at", models.DateTimeField()),
            ],
            options={
                "ordering": ["starts_at", "id"],
            },
        ),
        migrations.AddField(
            model_name="alarmprogress",
            name="listener_seen_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="alarmseries",
            name="due_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.AlterField(
            model_name="alarmepisode",
            name="suppressed_by",
            field=models.CharField(
                blank=True,
                choices=[
                    ("maintenance", "in a maintenance window"),
                    ("shelved", "shelved"),
                    ("storm", "part of a storm"),
                    ("parent_offline", "its device is not online"),
                ],
                max_length=16,
                verbose_name="suppressed by",
            ),
        ),
        migrations.AlterField(
            model_name="alarmrule",
            name="kind",
            field=models.CharField(
                choices=[
                    ("threshold", "above or below a limit"),
                    ("outside", "outside a band"),
                    ("no_data", "no data for too long"),
                ],
                max_length=12,
                verbose_name="kind",
            ),
        ),
        migrations.AlterField(
            model_name="alarmrule",
            name="metric",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="alarm_rules",
                to="devices.metric",
                verbose_name="metric",
            ),
        ),
        migrations.AlterField(
            model_name="alarmtransition",
            name="cause",
            field=models.CharField(
                choices=[
                    ("reading", "a reading"),
                    ("rule_changed", "the rule was changed"),
                    ("ended_by_user", "ended by a user"),
                    ("still_raised", "the condition still holds"),
                    ("acknowledged", "acknowledged"),
                    ("shelved", "shelved"),
                    ("unshelved", "no longer shelved"),
                    ("storm", "too many new alarms of the rule"),
                    ("silence", "no data"),
                    ("parent_offline", "the device is not online"),
                ],
                max_length=16,
                verbose_name="cause",
            ),
        ),
        migrations.AddIndex(
            model_name="alarmseries",
            index=models.Index(
                condition=models.Q(("due_at__isnull", False)), fields=["due_at"], name="alarm_series_due"
            ),
        ),
        migrations.AddConstraint(
            model_name="alarmrule",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("kind", "no_data"), ("metric__isnull", True)),
                    models.Q(models.Q(("kind", "no_data"), _negated=True), ("metric__isnull", False)),
                    _connector="OR",
                ),
                name="alarm_rule_has_metric",
            ),
        ),
        migrations.AddIndex(
            model_name="listeneroutage",
            index=models.Index(fields=["ends_at"], name="listener_outage_end"),
        ),
    ]
