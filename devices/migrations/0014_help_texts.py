import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    """Help texts in other words; nothing in the database changes."""

    dependencies = [
        ("devices", "0013_rotation_names"),
    ]

    operations = [
        migrations.AlterField(
            model_name="componenttype",
            name="expected_interval",
            field=models.PositiveIntegerField(
                default=60,
                help_text="Interval at which its components report. A component is stale after two missed reports.",
                validators=[django.core.validators.MinValueValidator(1)],
                verbose_name="expected interval in seconds",
            ),
        ),
        migrations.AlterField(
            model_name="hardwaremodel",
            name="version",
            field=models.CharField(
                help_text="Value of hardware_version in messages of the device.", max_length=40, verbose_name="version"
            ),
        ),
        migrations.AlterField(
            model_name="rotationcampaign",
            name="at_deadline",
            field=models.CharField(
                choices=[("end", "expire the old keys"), ("extend", "extend the deadline")],
                default="end",
                help_text="Action for the old keys of devices that do not sign with their new keys yet.",
                max_length=6,
                verbose_name="at the deadline",
            ),
        ),
    ]
