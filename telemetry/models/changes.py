"""The order of storing: the rows that `changes/` of the API reads.

`ChangeBatch` is partitioned by month of `stored_at` (see `telemetry.services.rollups.partitions`) and is written with
plain SQL by `telemetry.services.storage`; the model is for reading it.
"""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models


class ChangeBatch(models.Model):
    """The messages and readings that one transaction stored for the tenant. Rows are only added.

    The retention of messages removes them.

    The order is (generation, transaction, part). `part` tells apart the rows of one transaction, one of each kind.
    """

    STORED, QUARANTINED, SETTLED = 0, 1, 2

    pk = models.CompositePrimaryKey("generation", "transaction", "part", "stored_at")
    generation = models.IntegerField()
    # PostgreSQL's 64-bit number of the transaction (xid8).
    transaction = models.BigIntegerField()
    part = models.SmallIntegerField()
    stored_at = models.DateTimeField()
    # The readings that were new, side by side: `numbers` or `texts` is null.
    readings = models.IntegerField(default=0)
    series_ids = ArrayField(models.BigIntegerField(), null=True)
    times = ArrayField(models.DateTimeField(), null=True)
    numbers = ArrayField(models.FloatField(null=True), null=True)
    texts = ArrayField(models.TextField(null=True), null=True)
    # The keys of the messages that were new, side by side.
    messages = models.IntegerField(default=0)
    message_devices = ArrayField(models.BigIntegerField(), null=True)
    message_times = ArrayField(models.DateTimeField(), null=True)
    message_fingerprints = ArrayField(models.UUIDField(), null=True)
    # The quarantined messages that were added, changed or removed.
    quarantined = models.IntegerField(default=0)
    quarantined_ids = ArrayField(models.BigIntegerField(), null=True)

    def __str__(self) -> str:
        return f"{self.generation}.{self.transaction}.{self.part}"


class ChangeGeneration(models.Model):
    """An era of transaction numbers. They can go back when a database is restored, or a replica takes over.

    A writer whose database is not that of the last generation begins a new one. Positions of a generation
    are greater than all of those before it.
    """

    id = models.AutoField(primary_key=True)
    # Random: a cursor of another installation, or of a generation that a restored backup does not have, is recognized.
    name = models.UUIDField()
    # The database cluster, its timeline, the database and the table.
    database = models.CharField(max_length=100)
    started_at = models.DateTimeField()
    # Whether messages were stored before, that no batch has.
    has_earlier = models.BooleanField(default=False)
    # The position of the feed of status changes at the beginning.
    status_position = models.BigIntegerField(default=0)
    # The last batch that retention removed, null: none.
    removed_transaction = models.BigIntegerField(null=True)
    removed_part = models.SmallIntegerField(null=True)

    class Meta:
        ordering: ClassVar = ["id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["name"], name="change_generation_name_once"),
        ]

    def __str__(self) -> str:
        return f"{self.id} {self.name}"
