import django.contrib.postgres.fields
import django.core.validators
from django.db import migrations, models

# Partitioned by month like the readings, so that retention drops partitions. The values are in the index, so that a
# range of one series is read from the index alone: its rows lie far apart in the table.
CREATE_HOUR = """
CREATE TABLE telemetry_readinghour (
    series_id bigint NOT NULL,
    hour timestamptz NOT NULL,
    count bigint NOT NULL,
    min double precision NOT NULL,
    max double precision NOT NULL,
    sum double precision,
    last double precision NOT NULL,
    last_at timestamptz NOT NULL,
    PRIMARY KEY (series_id, hour) INCLUDE (count, min, max, sum, last, last_at)
) PARTITION BY RANGE (hour);
CREATE TABLE telemetry_readinghour_default PARTITION OF telemetry_readinghour DEFAULT;
"""

CREATE_DAY = """
CREATE TABLE telemetry_readingday (
    series_id bigint NOT NULL,
    day timestamptz NOT NULL,
    count bigint NOT NULL,
    min double precision NOT NULL,
    max double precision NOT NULL,
    sum double precision,
    last double precision NOT NULL,
    last_at timestamptz NOT NULL,
    PRIMARY KEY (series_id, day) INCLUDE (count, min, max, sum, last, last_at)
);
"""

# The default is the transaction's number: whoever takes a mark away sees whether another has renewed it.
CREATE_LATE_HOUR = """
CREATE TABLE telemetry_latehour (
    device_id bigint NOT NULL,
    hour timestamptz NOT NULL,
    mark bigint NOT NULL DEFAULT txid_current(),
    PRIMARY KEY (device_id, hour)
);
"""

# Room in the pages, so that an update stays in its page and touches no index.
CREATE_LATEST = """
CREATE TABLE telemetry_latest (
    series_id bigint PRIMARY KEY,
    time timestamptz NOT NULL,
    value double precision,
    text text,
    CONSTRAINT latest_number_or_text CHECK (num_nonnulls(value, text) = 1)
) WITH (fillfactor = 60);
"""

# The count is in the index, so that a page of readings finds its days without reading the arrays.
CREATE_PACKED_DAY = """
CREATE TABLE telemetry_packedday (
    series_id bigint NOT NULL,
    day timestamptz NOT NULL,
    count integer NOT NULL,
    offsets integer[] NOT NULL,
    micros smallint[],
    numbers double precision[] NOT NULL,
    PRIMARY KEY (series_id, day) INCLUDE (count),
    CONSTRAINT packed_whole CHECK (count > 0 AND cardinality(offsets) = count AND cardinality(numbers) = count
        AND coalesce(cardinality(micros), count) = count)
) PARTITION BY RANGE (day);
CREATE TABLE telemetry_packedday_default PARTITION OF telemetry_packedday DEFAULT;
"""

STATE_ROW = "INSERT INTO telemetry_rollupstate (id) VALUES (1)"


class Migration(migrations.Migration):
    dependencies = [
        ("telemetry", "0001_initial"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(CREATE_LATE_HOUR, "DROP TABLE telemetry_latehour")],
            state_operations=[
                migrations.CreateModel(
                    name="LateHour",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "device_id", "hour", blank=True, editable=False, primary_key=True, serialize=False
                            ),
                        ),
                        ("device_id", models.BigIntegerField()),
                        ("hour", models.DateTimeField()),
                        ("mark", models.BigIntegerField()),
                    ],
                ),
            ],
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(CREATE_LATEST, "DROP TABLE telemetry_latest")],
            state_operations=[
                migrations.CreateModel(
                    name="Latest",
                    fields=[
                        ("series_id", models.BigIntegerField(primary_key=True, serialize=False)),
                        ("time", models.DateTimeField(verbose_name="time")),
                        ("value", models.FloatField(null=True)),
                        ("text", models.TextField(null=True)),
                    ],
                ),
            ],
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(CREATE_PACKED_DAY, "DROP TABLE telemetry_packedday")],
            state_operations=[
                migrations.CreateModel(
                    name="PackedDay",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "series_id", "day", blank=True, editable=False, primary_key=True, serialize=False
                            ),
                        ),
                        ("series_id", models.BigIntegerField()),
                        ("day", models.DateTimeField()),
                        ("count", models.IntegerField()),
                        (
                            "offsets",
                            django.contrib.postgres.fields.ArrayField(base_field=models.IntegerField(), size=None),
                        ),
                        (
                            "micros",
                            django.contrib.postgres.fields.ArrayField(
                                base_field=models.SmallIntegerField(), null=True, size=None
                            ),
                        ),
                        (
                            "numbers",
                            django.contrib.postgres.fields.ArrayField(base_field=models.FloatField(), size=None),
                        ),
                    ],
                ),
            ],
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(CREATE_DAY, "DROP TABLE telemetry_readingday")],
            state_operations=[
                migrations.CreateModel(
                    name="ReadingDay",
                    fields=[
                        ("count", models.BigIntegerField()),
                        ("min", models.FloatField()),
                        ("max", models.FloatField()),
                        ("sum", models.FloatField(null=True)),
                        ("last", models.FloatField()),
                        ("last_at", models.DateTimeField()),
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "series_id", "day", blank=True, editable=False, primary_key=True, serialize=False
                            ),
                        ),
                        ("series_id", models.BigIntegerField()),
                        ("day", models.DateTimeField()),
                    ],
                ),
            ],
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(CREATE_HOUR, "DROP TABLE telemetry_readinghour")],
            state_operations=[
                migrations.CreateModel(
                    name="ReadingHour",
                    fields=[
                        ("count", models.BigIntegerField()),
                        ("min", models.FloatField()),
                        ("max", models.FloatField()),
                        ("sum", models.FloatField(null=True)),
                        ("last", models.FloatField()),
                        ("last_at", models.DateTimeField()),
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "series_id", "hour", blank=True, editable=False, primary_key=True, serialize=False
                            ),
                        ),
                        ("series_id", models.BigIntegerField()),
                        ("hour", models.DateTimeField()),
                    ],
                ),
            ],
        ),
        migrations.CreateModel(
            name="RepackDay",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "device_id", "day", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("device_id", models.BigIntegerField()),
                ("day", models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name="RetentionSettings",
            fields=[
                ("id", models.PositiveSmallIntegerField(default=1, editable=False, primary_key=True, serialize=False)),
                (
                    "messages_months",
                    models.PositiveSmallIntegerField(
                        blank=True,
                        help_text="Whole months beside the present one; older ones are removed for good. Empty: kept for ever.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(1)],
                        verbose_name="months of messages",
                    ),
                ),
                (
                    "readings_months",
                    models.PositiveSmallIntegerField(
                        blank=True,
                        help_text="Whole months beside the present one; older ones are removed for good. Empty: kept for ever.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(1)],
                        verbose_name="months of readings",
                    ),
                ),
                (
                    "rollups_months",
                    models.PositiveSmallIntegerField(
                        blank=True,
                        help_text="Whole months beside the present one; older ones are removed for good. Empty: kept for ever.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(1)],
                        verbose_name="months of hourly and daily values",
                    ),
                ),
            ],
            options={
                "verbose_name": "retention",
                "verbose_name_plural": "retention",
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("id", 1)), name="one_row_of_retention_settings"),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("messages_months__gte", 1), ("readings_months__gte", 1), ("rollups_months__gte", 1)
                        ),
                        name="retention_keeps_a_month",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("rollups_months__isnull", True),
                            models.Q(
                                ("readings_months__isnull", False), ("rollups_months__gte", models.F("readings_months"))
                            ),
                            _connector="OR",
                        ),
                        name="rollups_outlive_readings",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="RollupState",
            fields=[
                ("id", models.PositiveSmallIntegerField(default=1, editable=False, primary_key=True, serialize=False)),
                ("marked_until", models.DateTimeField(null=True)),
                ("rolled_until", models.DateTimeField(null=True)),
                ("packed_until", models.DateTimeField(null=True)),
                ("readings_from", models.DateTimeField(null=True)),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("id", 1)), name="one_row_of_rollup_state"),
                    models.CheckConstraint(
                        condition=models.Q(("rolled_until__lte", models.F("marked_until"))), name="rolled_up_is_marked"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("packed_until__lte", models.F("rolled_until"))), name="packed_is_rolled_up"
                    ),
                ],
            },
        ),
        migrations.RunSQL(STATE_ROW, migrations.RunSQL.noop),
    ]
