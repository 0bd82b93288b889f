"""The answers to requests with an `Idempotency-Key`."""

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _


class StoredAnswer(models.Model):
    """The answer to a request that was carried out, without secrets: the same request receives it again."""

    caller = models.CharField(max_length=32)  # an API key or a user: `key:5`, `user:7`
    key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField()
    body = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints: ClassVar = [
            # The lookup of a request.
            models.UniqueConstraint(fields=["caller", "key"], name="stored_answer_of_caller"),
        ]
        indexes: ClassVar = [
            # Removal of the oldest.
            models.Index(fields=["created_at"], name="stored_answer_created"),
        ]
        verbose_name = _("stored answer")
        verbose_name_plural = _("stored answers")

    def __str__(self) -> str:
        return f"{self.caller} {self.key}"
