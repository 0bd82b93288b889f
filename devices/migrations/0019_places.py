import django.core.validators
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("devices", "0018_stored_answers"),
    ]

    operations = [
        migrations.CreateModel(
            name="Place",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "key",
                    models.CharField(
                        help_text="For example house-3.",
                        max_length=63,
                        unique=True,
                        validators=[
                            django.core.validators.RegexValidator(
                                "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$",
                                "Use letters, digits, hyphens, underscores and dots (63 at most), beginning with a letter or digit.",
                            )
                        ],
                        verbose_name="key",
                    ),
                ),
                ("name", models.CharField(max_length=120, verbose_name="name")),
                (
                    "kind",
                    models.CharField(
                        blank=True,
                        help_text="For example farm, house or zone. It has no effect.",
                        max_length=63,
                        verbose_name="kind",
                    ),
                ),
                (
                    "path",
                    models.CharField(
                        editable=False, help_text="The keys down to this place.", max_length=512, verbose_name="path"
                    ),
                ),
                (
                    "parent",
                    models.ForeignKey(
                        blank=True,
                        help_text="The place that contains this one.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="children",
                        to="devices.place",
                        verbose_name="parent",
                    ),
                ),
            ],
            options={
                "verbose_name": "place",
                "verbose_name_plural": "places",
                "ordering": ["path"],
            },
        ),
        migrations.AddField(
            model_name="device",
            name="place",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="devices",
                to="devices.place",
                verbose_name="place",
            ),
        ),
        migrations.AddIndex(
            model_name="place",
            index=models.Index(fields=["path"], name="place_path_prefix", opclasses=["varchar_pattern_ops"]),
        ),
    ]
