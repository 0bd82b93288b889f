from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("devices", "0021_audit_changes"),
    ]

    operations = [
        migrations.AddField(
            model_name="auditentry",
            name="position",
            field=models.BigIntegerField(null=True, verbose_name="position"),
        ),
        migrations.AddField(
            model_name="auditentry",
            name="previous_hash",
            field=models.CharField(blank=True, db_default="", max_length=64, verbose_name="previous hash"),
        ),
        migrations.AddField(
            model_name="auditentry",
            name="hash",
            field=models.CharField(blank=True, db_default="", max_length=64, verbose_name="hash"),
        ),
        migrations.AddConstraint(
            model_name="auditentry",
            constraint=models.UniqueConstraint(fields=["position"], name="audit_position_once"),
        ),
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(condition=models.Q(("position", None)), fields=["id"], name="audit_unchained"),
        ),
    ]
