from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("devices", "0009_pins"),
    ]

    operations = [
        migrations.AddField(
            model_name="brokerpassword",
            name="rounds",
            field=models.PositiveIntegerField(db_default=0, default=0),
        ),
    ]
