from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("devices", "0008_imports"),
    ]

    operations = [
        migrations.AddField(
            model_name="component",
            name="pins",
            field=models.JSONField(
                blank=True,
                default=dict,
                help_text='Where its lines are on the board, for example {"data": 4} or {"sda": 2, "scl": 3}.',
                verbose_name="pins",
            ),
        ),
    ]
