from django.db import migrations

# Compressing the arrays takes PostgreSQL several times as long as all the rest of the row. Partitions inherit it.
_COLUMNS = ("series_ids", "times", "numbers", "texts", "message_devices", "message_times", "message_fingerprints")


def _alter(storage: str) -> str:
    return "ALTER TABLE telemetry_changebatch " + ", ".join(f"ALTER {name} SET STORAGE {storage}" for name in _COLUMNS)


class Migration(migrations.Migration):
    dependencies = [("telemetry", "0008_changes")]

    operations = [migrations.RunSQL(_alter("EXTERNAL"), _alter("EXTENDED"))]
