from django.db import migrations, models


class Migration(migrations.Migration):
    """Names of fields and states: columns and stored values stay the same."""

    dependencies = [("devices", "0012_presence_names")]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.RenameField("rotationcampaign", "turned_at", "cutover_at"),
                migrations.RenameField("rotationmember", "moved_at", "confirmed_at"),
                migrations.RenameField("device", "signature_floor", "min_signature_version"),
                migrations.AlterField(
                    model_name="device",
                    name="min_signature_version",
                    field=models.PositiveSmallIntegerField(
                        choices=[(1, "version 1 or 2"), (2, "version 2 only")],
                        db_column="signature_floor",
                        default=1,
                        verbose_name="accepted signatures",
                    ),
                ),
                migrations.AlterField(
                    model_name="rotationcampaign",
                    name="cutover_at",
                    field=models.DateTimeField(
                        blank=True, db_column="turned_at", null=True, verbose_name="old keys expiring"
                    ),
                ),
                migrations.AlterField(
                    model_name="rotationmember",
                    name="confirmed_at",
                    field=models.DateTimeField(db_column="moved_at", null=True, verbose_name="confirmed"),
                ),
            ],
        ),
    ]
