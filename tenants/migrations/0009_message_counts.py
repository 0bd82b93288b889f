from django.db import migrations, models


class Migration(migrations.Migration):
    """Fields get other names and labels; columns keep theirs."""

    dependencies = [("tenants", "0008_interface_texts")]

    operations = [
        migrations.AlterField(
            "unroutedmessage", "times", models.BigIntegerField(db_column="times", default=1, verbose_name="count")
        ),
        migrations.RenameField("unroutedmessage", "times", "count"),
        migrations.AlterField("unroutedmessage", "detail", models.TextField(verbose_name="detail")),
        migrations.AlterField(
            "suppressedunroutedmessages",
            "times",
            models.BigIntegerField(db_column="times", default=0, verbose_name="count"),
        ),
        migrations.RenameField("suppressedunroutedmessages", "times", "count"),
        migrations.AlterField(
            "suppressedunroutedmessages", "detail", models.TextField(blank=True, verbose_name="detail")
        ),
        migrations.AlterModelOptions(
            "suppressedunroutedmessages",
            {
                "ordering": ["-day", "-count"],
                "verbose_name": "suppressed unrouted messages",
                "verbose_name_plural": "suppressed unrouted messages",
            },
        ),
    ]
