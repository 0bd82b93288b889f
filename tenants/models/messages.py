"""Messages in the public schema: unrouted ones, their suppressed repetitions, and the overflow of blocked tenants."""

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _


class UnroutedMessage(models.Model):
    """A message that belongs to no tenant, stored for staff with the reason. An identical one increases `count`."""

    fingerprint = models.UUIDField(_("fingerprint"), unique=True, editable=False)
    reason = models.CharField(_("reason"), max_length=40)
    detail = models.TextField(_("detail"))
    topic = models.TextField(_("topic"))
    payload = models.BinaryField(_("payload"))
    first_received_at = models.DateTimeField(_("first received"))
    last_received_at = models.DateTimeField(_("last received"), db_index=True)  # the console's list order
    count = models.BigIntegerField(_("count"), default=1, db_column="times")

    class Meta:
        ordering: ClassVar = ["-last_received_at"]
        verbose_name = _("unrouted message")
        verbose_name_plural = _("unrouted messages")

    def __str__(self) -> str:
        return f"{self.reason}: {self.topic[:80]}"


class OverflowMessage(models.Model):
    """A message of a tenant whose tables are locked or faulty, beyond what the listener holds in memory.

    Listeners store it, in the order of the ids, when the tables are free. The console shows how many there are.
    """

    schema_name = models.CharField(_("tenant's schema"), max_length=63)
    topic = models.TextField(_("topic"))
    payload = models.BinaryField(_("payload"))
    received_at = models.DateTimeField(_("received"))

    class Meta:
        db_table = "tenants_waitingmessage"
        ordering: ClassVar = ["id"]
        indexes: ClassVar = [models.Index(fields=["schema_name", "id"], name="waiting_message_order")]
        verbose_name = _("overflow message of a locked tenant")
        verbose_name_plural = _("overflow messages of locked tenants")

    def __str__(self) -> str:
        return f"{self.schema_name}: {self.topic[:80]}"


class OverflowCount(models.Model):
    """The number of messages of a blocked tenant that a limit refused; listeners add it to the tenant's own counts when
    its tables can be used again.

    `device_id` is the device in the tenant's schema, where the limit is the device's own.
    """

    schema_name = models.CharField(_("tenant's schema"), max_length=63)
    limit = models.CharField(_("limit"), max_length=32)
    device_id = models.BigIntegerField(_("device"), null=True)
    count = models.BigIntegerField(_("refused"), default=0)

    class Meta:
        constraints: ClassVar = [
            # The listener upserts on it.
            models.UniqueConstraint(
                fields=["schema_name", "limit", "device_id"], name="overflow_count_once", nulls_distinct=False
            ),
        ]
        verbose_name = _("refused messages of a blocked tenant")
        verbose_name_plural = _("refused messages of blocked tenants")

    def __str__(self) -> str:
        return f"{self.schema_name} {self.limit}: {self.count}"


class OverflowUsage(models.Model):
    """The number and the bytes of a tenant's overflow messages; changed in the transaction that changes these."""

    schema_name = models.CharField(_("tenant's schema"), max_length=63, unique=True)
    messages = models.BigIntegerField(_("messages"), default=0)
    bytes = models.BigIntegerField(_("bytes"), default=0)

    class Meta:
        verbose_name = _("use of the overflow")
        verbose_name_plural = _("use of the overflow")

    def __str__(self) -> str:
        return f"{self.schema_name}: {self.bytes}"


class SuppressedUnroutedMessages(models.Model):
    """Unrouted messages of a day (UTC) that were counted instead of stored, because similar ones are stored.

    `source` is segment/uuid of the topic, or empty for all sources together.
    """

    day = models.DateField(_("day"))
    reason = models.CharField(_("reason"), max_length=40)
    source = models.CharField(_("source"), max_length=120, blank=True)
    count = models.BigIntegerField(_("count"), default=0, db_column="times")
    detail = models.TextField(_("detail"), blank=True)
    last_received_at = models.DateTimeField(_("last received"))

    class Meta:
        db_table = "tenants_unroutedflood"
        ordering: ClassVar = ["-day", "-count"]
        constraints: ClassVar = [
            # The listener's upsert.
            models.UniqueConstraint(fields=["day", "reason", "source"], name="unrouted_flood_once"),
        ]
        verbose_name = _("suppressed unrouted messages")
        verbose_name_plural = _("suppressed unrouted messages")

    def __str__(self) -> str:
        return f"{self.day} {self.reason}: {self.count}"
