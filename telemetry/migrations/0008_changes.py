import django.contrib.postgres.fields
from django.db import migrations, models

# Partitioned by month of storing, so that retention drops partitions. The transaction's number is given by each
# statement and is no column's default, because Citus refuses such defaults. In rows of one kind the arrays of the others
# are null.
CREATE_CHANGE_BATCH = """
CREATE TABLE telemetry_changebatch (
    generation integer NOT NULL,
    transaction bigint NOT NULL,
    part smallint NOT NULL,
    stored_at timestamptz NOT NULL,
    readings integer NOT NULL DEFAULT 0,
    series_ids bigint[],
    times timestamptz[],
    numbers double precision[],
    texts text[],
    messages integer NOT NULL DEFAULT 0,
    message_devices bigint[],
    message_times timestamptz[],
    message_fingerprints uuid[],
    quarantined integer NOT NULL DEFAULT 0,
    quarantined_ids bigint[],
    PRIMARY KEY (generation, transaction, part, stored_at),
    CONSTRAINT change_batch_whole CHECK (
        coalesce(cardinality(series_ids), 0) = readings AND coalesce(cardinality(times), 0) = readings
        AND coalesce(cardinality(numbers), 0) = readings AND coalesce(cardinality(texts), 0) = readings
        AND coalesce(cardinality(message_devices), 0) = messages
        AND coalesce(cardinality(message_times), 0) = messages
        AND coalesce(cardinality(message_fingerprints), 0) = messages
        AND coalesce(cardinality(quarantined_ids), 0) = quarantined)
) PARTITION BY RANGE (stored_at);
CREATE TABLE telemetry_changebatch_default PARTITION OF telemetry_changebatch DEFAULT;
"""


def _array(base: models.Field) -> models.Field:
    return django.contrib.postgres.fields.ArrayField(base_field=base, null=True, size=None)


class Migration(migrations.Migration):
    dependencies = [
        ("telemetry", "0007_field_labels"),
    ]

    operations = [
        migrations.CreateModel(
            name="ChangeGeneration",
            fields=[
                ("id", models.AutoField(primary_key=True, serialize=False)),
                ("name", models.UUIDField()),
                ("database", models.CharField(max_length=100)),
                ("started_at", models.DateTimeField()),
                ("has_earlier", models.BooleanField(default=False)),
                ("status_position", models.BigIntegerField(default=0)),
                ("removed_transaction", models.BigIntegerField(null=True)),
                ("removed_part", models.SmallIntegerField(null=True)),
            ],
            options={
                "ordering": ["id"],
                "constraints": [models.UniqueConstraint(fields=["name"], name="change_generation_name_once")],
            },
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(CREATE_CHANGE_BATCH, "DROP TABLE telemetry_changebatch")],
            state_operations=[
                migrations.CreateModel(
                    name="ChangeBatch",
                    fields=[
                        ("generation", models.IntegerField()),
                        ("transaction", models.BigIntegerField()),
                        ("part", models.SmallIntegerField()),
                        ("stored_at", models.DateTimeField()),
                        ("readings", models.IntegerField(default=0)),
                        ("series_ids", _array(models.BigIntegerField())),
                        ("times", _array(models.DateTimeField())),
                        ("numbers", _array(models.FloatField(null=True))),
                        ("texts", _array(models.TextField(null=True))),
                        ("messages", models.IntegerField(default=0)),
                        ("message_devices", _array(models.BigIntegerField())),
                        ("message_times", _array(models.DateTimeField())),
                        ("message_fingerprints", _array(models.UUIDField())),
                        ("quarantined", models.IntegerField(default=0)),
                        ("quarantined_ids", _array(models.BigIntegerField())),
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "generation",
                                "transaction",
                                "part",
                                "stored_at",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                    ],
                ),
            ],
        ),
    ]
