"""The old way's tables. Imported by `old_way` alone, after it has configured Django."""

from typing import ClassVar

from django.db import models

SCHEMA = "old_way"


class Device(models.Model):  # noqa: DJ008 (nobody reads it)
    uuid = models.UUIDField(unique=True)

    class Meta:
        app_label = SCHEMA


class Message(models.Model):  # noqa: DJ008
    device = models.ForeignKey(Device, on_delete=models.PROTECT, db_index=False)
    timestamp = models.DateTimeField()
    received_at = models.DateTimeField(auto_now_add=True)
    topic = models.TextField()
    payload = models.TextField()

    class Meta:
        app_label = SCHEMA
        indexes: ClassVar = [models.Index(fields=["device", "timestamp"], name="message_by_device")]


class Reading(models.Model):  # noqa: DJ008
    device = models.ForeignKey(Device, on_delete=models.PROTECT, db_index=False)
    timestamp = models.DateTimeField()
    metric = models.CharField(max_length=63)
    value = models.FloatField()
    unit = models.CharField(max_length=24)

    class Meta:
        app_label = SCHEMA
        indexes: ClassVar = [models.Index(fields=["device", "timestamp"], name="reading_by_device")]
