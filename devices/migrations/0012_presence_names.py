import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    """Names of fields and of a model: tables and columns keep theirs."""

    dependencies = [("devices", "0011_interface_texts")]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.RemoveIndex("devicestatus", "device_status_untold"),
                migrations.RenameField("devicestatus", "reason", "cause"),
                migrations.RenameField("devicestatus", "untold", "pending_update"),
                migrations.RenameField("statuschange", "quiet", "suppressed_by"),
                migrations.RenameModel("IgnoredSign", "IgnoredWill"),
                migrations.RenameField("ignoredwill", "why", "reason"),
                migrations.AlterModelTable("ignoredwill", "devices_ignoredsign"),
                migrations.AlterField(
                    model_name="devicestatus",
                    name="cause",
                    field=models.CharField(
                        blank=True,
                        choices=[
                            ("telemetry", "live telemetry received"),
                            ("birth", "connected"),
                            ("will", "connection lost or closed"),
                            ("timeout", "no message within the time-out"),
                            ("staff", "set by a user"),
                            ("reconcile", "corrected after a failure"),
                        ],
                        db_column="reason",
                        max_length=10,
                        verbose_name="cause",
                    ),
                ),
                migrations.AlterField(
                    model_name="devicestatus",
                    name="pending_update",
                    field=models.CharField(
                        blank=True,
                        choices=[
                            ("maintenance", "in a maintenance window"),
                            ("flapping", "flapping"),
                            ("inactive", "deactivated"),
                        ],
                        db_column="untold",
                        db_default="",
                        default="",
                        editable=False,
                        max_length=12,
                    ),
                ),
                migrations.AlterField(
                    model_name="ignoredwill",
                    name="device",
                    field=models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="ignored_wills",
                        to="devices.device",
                        verbose_name="device",
                    ),
                ),
                migrations.AlterField(
                    model_name="ignoredwill",
                    name="reason",
                    field=models.CharField(db_column="why", max_length=20, verbose_name="reason"),
                ),
                migrations.AlterField(
                    model_name="statuschange",
                    name="suppressed_by",
                    field=models.CharField(
                        blank=True,
                        choices=[
                            ("maintenance", "in a maintenance window"),
                            ("flapping", "flapping"),
                            ("inactive", "deactivated"),
                        ],
                        db_column="quiet",
                        max_length=12,
                        verbose_name="not published because",
                    ),
                ),
                migrations.AddIndex(
                    model_name="devicestatus",
                    index=models.Index(
                        condition=models.Q(("pending_update", ""), _negated=True),
                        fields=["device"],
                        name="device_status_untold",
                    ),
                ),
            ],
        ),
    ]
