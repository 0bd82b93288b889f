"""Base of the models whose rows count towards a quota of the tenant."""

from contextlib import nullcontext
from typing import Any, ClassVar

from django.db import models, transaction
from django.db.models import QuerySet

from tenants.infrastructure import hooks
from tenants.infrastructure.database import current_schema


class CountedModel(models.Model):
    """A model of which a tenant may have only so many rows: adding one more raises QuotaExceeded."""

    quota: ClassVar[str]

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the row. A new one is counted under the tenant's lock until the end of the transaction."""
        if not self._state.adding:
            super().save(*args, **kwargs)
            return
        # Without a block of its own in one of the caller's: an error in it would end the caller's transaction.
        with nullcontext() if transaction.get_connection().in_atomic_block else transaction.atomic():
            for check in hooks.quota_check:
                check(self.quota_schema(), self.quota, 1)
            super().save(*args, **kwargs)

    def quota_schema(self) -> str:
        """Return the schema of the tenant whose quota it is."""
        return current_schema()

    @classmethod
    def counted(cls, schema: str) -> QuerySet[Any]:
        """Return the rows that count, of the tenant whose schema is current."""
        return cls._default_manager.all()
