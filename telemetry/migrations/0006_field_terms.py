"""Names of models and fields in the field's terms. The tables and columns keep their names: nothing is rewritten."""

import django.db.models.deletion
import django.core.validators
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("telemetry", "0005_imports"), ("devices", "0010_broker_password_rounds")]

    operations = [
        migrations.AlterModelTable(name="quarantineflood", table="telemetry_quarantineflood"),
        migrations.RenameModel("QuarantineFlood", "SuppressedMessages"),
        migrations.AlterModelTable(name="recordimport", table="telemetry_recordimport"),
        migrations.RenameModel("RecordImport", "LegacyImport"),
        migrations.AlterField(
            "limithit", "times", models.BigIntegerField(db_column="times", default=0, verbose_name="refused")
        ),
        migrations.RenameField("limithit", "times", "count"),
        migrations.AlterField(
            "quarantined", "times", models.BigIntegerField(db_column="times", default=1, verbose_name="count")
        ),
        migrations.RenameField("quarantined", "times", "count"),
        migrations.AlterField(
            "suppressedmessages", "times", models.BigIntegerField(db_column="times", default=0, verbose_name="count")
        ),
        migrations.RenameField("suppressedmessages", "times", "count"),
        migrations.AlterModelOptions(
            name="legacyimport",
            options={"ordering": ["-id"], "verbose_name": "legacy import", "verbose_name_plural": "legacy imports"},
        ),
        migrations.AlterModelOptions(
            name="limithit",
            options={
                "ordering": ["-day", "limit", "-count"],
                "verbose_name": "limit refusal",
                "verbose_name_plural": "limit refusals",
            },
        ),
        migrations.AlterModelOptions(
            name="suppressedmessages",
            options={
                "ordering": ["-day", "-count"],
                "verbose_name": "suppressed messages",
                "verbose_name_plural": "suppressed messages",
            },
        ),
        migrations.AlterField(
            model_name="quarantined",
            name="detail",
            field=models.TextField(verbose_name="detail"),
        ),
        migrations.AlterField(
            model_name="quarantined",
            name="reason",
            field=models.CharField(
                choices=[
                    ("malformed", "malformed"),
                    ("too_large", "too large"),
                    ("key_unavailable", "key unavailable (deferred)"),
                    ("unknown_device", "unknown device"),
                    ("inactive_device", "inactive device"),
                    ("wrong_tenant", "wrong tenant"),
                    ("bad_signature", "bad signature"),
                    ("downgraded_signature", "downgraded signature"),
                    ("future_timestamp", "timestamp in the future"),
                    ("replayed", "replayed"),
                    ("cpu_serial_mismatch", "CPU serial mismatch"),
                    ("hardware_version_mismatch", "hardware version mismatch"),
                    ("unknown_component", "unknown component"),
                    ("component_not_attached", "component not attached"),
                    ("component_not_allowed", "component not allowed"),
                    ("wrong_type", "wrong type"),
                    ("out_of_range", "out of range"),
                    ("unit_mismatch", "unit mismatch"),
                    ("quota_exceeded", "quota exceeded"),
                ],
                max_length=30,
                verbose_name="reason",
            ),
        ),
        migrations.AlterField(
            model_name="replay",
            name="chosen",
            field=models.JSONField(blank=True, default=list, verbose_name="selected"),
        ),
        migrations.AlterField(
            model_name="replay",
            name="note",
            field=models.TextField(blank=True, verbose_name="note"),
        ),
        migrations.AlterField(
            model_name="replay",
            name="reason",
            field=models.CharField(
                blank=True,
                choices=[
                    ("malformed", "malformed"),
                    ("too_large", "too large"),
                    ("key_unavailable", "key unavailable (deferred)"),
                    ("unknown_device", "unknown device"),
                    ("inactive_device", "inactive device"),
                    ("wrong_tenant", "wrong tenant"),
                    ("bad_signature", "bad signature"),
                    ("downgraded_signature", "downgraded signature"),
                    ("future_timestamp", "timestamp in the future"),
                    ("replayed", "replayed"),
                    ("cpu_serial_mismatch", "CPU serial mismatch"),
                    ("hardware_version_mismatch", "hardware version mismatch"),
                    ("unknown_component", "unknown component"),
                    ("component_not_attached", "component not attached"),
                    ("component_not_allowed", "component not allowed"),
                    ("wrong_type", "wrong type"),
                    ("out_of_range", "out of range"),
                    ("unit_mismatch", "unit mismatch"),
                    ("quota_exceeded", "quota exceeded"),
                ],
                max_length=30,
                verbose_name="reason",
            ),
        ),
        migrations.AlterField(
            model_name="replay",
            name="start",
            field=models.DateTimeField(blank=True, null=True, verbose_name="received at or after"),
        ),
        migrations.AlterField(
            model_name="replay",
            name="state",
            field=models.CharField(
                choices=[
                    ("waiting", "waiting for a worker"),
                    ("running", "running"),
                    ("done", "done"),
                    ("cancelled", "cancelled"),
                ],
                default="waiting",
                max_length=9,
                verbose_name="state",
            ),
        ),
        migrations.AlterField(
            model_name="replay",
            name="topic",
            field=models.TextField(blank=True, verbose_name="topic contains"),
        ),
        migrations.AlterField(
            model_name="retentionsettings",
            name="messages_months",
            field=models.PositiveSmallIntegerField(
                blank=True,
                help_text="Number of whole months to keep besides the current one; older data is deleted permanently. Empty: no limit.",
                null=True,
                validators=[django.core.validators.MinValueValidator(1)],
                verbose_name="months of messages",
            ),
        ),
        migrations.AlterField(
            model_name="retentionsettings",
            name="readings_months",
            field=models.PositiveSmallIntegerField(
                blank=True,
                help_text="Number of whole months to keep besides the current one; older data is deleted permanently. Empty: no limit.",
                null=True,
                validators=[django.core.validators.MinValueValidator(1)],
                verbose_name="months of readings",
            ),
        ),
        migrations.AlterField(
            model_name="retentionsettings",
            name="rollups_months",
            field=models.PositiveSmallIntegerField(
                blank=True,
                help_text="Number of whole months to keep besides the current one; older data is deleted permanently. Empty: no limit.",
                null=True,
                validators=[django.core.validators.MinValueValidator(1)],
                verbose_name="months of hourly and daily values",
            ),
        ),
        migrations.AlterField(
            model_name="suppressedmessages",
            name="detail",
            field=models.TextField(blank=True, verbose_name="detail"),
        ),
        migrations.AlterField(
            model_name="suppressedmessages",
            name="device",
            field=models.ForeignKey(
                blank=True,
                db_constraint=False,
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.DO_NOTHING,
                related_name="suppressed_messages",
                to="devices.device",
                verbose_name="device",
            ),
        ),
        migrations.AlterField(
            model_name="suppressedmessages",
            name="reason",
            field=models.CharField(
                choices=[
                    ("malformed", "malformed"),
                    ("too_large", "too large"),
                    ("key_unavailable", "key unavailable (deferred)"),
                    ("unknown_device", "unknown device"),
                    ("inactive_device", "inactive device"),
                    ("wrong_tenant", "wrong tenant"),
                    ("bad_signature", "bad signature"),
                    ("downgraded_signature", "downgraded signature"),
                    ("future_timestamp", "timestamp in the future"),
                    ("replayed", "replayed"),
                    ("cpu_serial_mismatch", "CPU serial mismatch"),
                    ("hardware_version_mismatch", "hardware version mismatch"),
                    ("unknown_component", "unknown component"),
                    ("component_not_attached", "component not attached"),
                    ("component_not_allowed", "component not allowed"),
                    ("wrong_type", "wrong type"),
                    ("out_of_range", "out of range"),
                    ("unit_mismatch", "unit mismatch"),
                    ("quota_exceeded", "quota exceeded"),
                ],
                max_length=30,
                verbose_name="reason",
            ),
        ),
    ]
