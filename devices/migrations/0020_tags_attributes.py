import django.contrib.postgres.fields
import django.contrib.postgres.indexes
from django.db import migrations, models

import devices.domain.attributes
import devices.domain.tags


class Migration(migrations.Migration):
    dependencies = [
        ("devices", "0019_places"),
    ]

    operations = [
        migrations.AddField(
            model_name="device",
            name="attributes",
            field=models.JSONField(
                blank=True,
                db_default={},
                default=dict,
                help_text='Names with a text, a number or a boolean, for example {"crop": "tomato", "area_m2": 120}.',
                validators=[devices.domain.attributes.validate_attributes],
                verbose_name="attributes",
            ),
        ),
        migrations.AddField(
            model_name="device",
            name="external_id",
            field=models.CharField(
                blank=True,
                help_text="The id of the device in another system.",
                max_length=120,
                null=True,
                unique=True,
                verbose_name="external id",
            ),
        ),
        migrations.AddField(
            model_name="device",
            name="tags",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=63),
                blank=True,
                db_default=[],
                default=list,
                help_text="Lower-case words, separated by commas.",
                size=None,
                validators=[devices.domain.tags.validate_tags],
                verbose_name="tags",
            ),
        ),
        migrations.AddIndex(
            model_name="device",
            index=django.contrib.postgres.indexes.GinIndex(fields=["tags"], name="device_tags"),
        ),
        migrations.AddIndex(
            model_name="device",
            index=django.contrib.postgres.indexes.GinIndex(
                fields=["attributes"], name="device_attributes", opclasses=["jsonb_path_ops"]
            ),
        ),
        migrations.AddConstraint(
            model_name="device",
            constraint=models.CheckConstraint(condition=models.Q(("tags__len__lte", 32)), name="device_tags_bounded"),
        ),
    ]
