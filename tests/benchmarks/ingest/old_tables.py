"""The old way's tables. Imported by `old_server` alone, after it has configured Django."""

from typing import ClassVar

from django.db import models

SCHEMA = "old_way"


class Owner(models.Model):  # noqa: DJ008 (no page shows it)
    secret = models.CharField(max_length=64)

    class Meta:
        app_label = SCHEMA


class Device(models.Model):  # noqa: DJ008
    uuid = models.UUIDField(unique=True)
    owner = models.ForeignKey(Owner, on_delete=models.PROTECT, db_index=False)
    last_seen = models.DateTimeField(null=True)

    class Meta:
        app_label = SCHEMA


class Component(models.Model):  # noqa: DJ008
    device = models.ForeignKey(Device, on_delete=models.PROTECT, db_index=False)
    type = models.CharField(max_length=63)
    attached = models.BooleanField(default=True)

    class Meta:
        app_label = SCHEMA
        constraints: ClassVar = [models.UniqueConstraint(fields=["device", "type"], name="component_once")]


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
