from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("devices", "0020_tags_attributes"),
    ]

    operations = [
        migrations.AddField(
            model_name="auditentry",
            name="changes",
            field=models.JSONField(blank=True, null=True, verbose_name="changes"),
        ),
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(fields=["at", "id"], name="audit_in_order"),
        ),
    ]
