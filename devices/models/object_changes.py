"""Changes of the objects that programs mirror, in the order in which they were read first."""

from typing import ClassVar

from django.db import models


class ObjectChange(models.Model):
    """An object was added, changed or removed; which of them, its own table says.

    Triggers write the rows, in the transaction of the change and whatever statement made it (migration
    `devices.0030_object_changes`). `devices.services.object_changes` numbers them after their commit.
    """

    kind = models.CharField(max_length=24)
    # The object's name in the API: its UUID, id or key.
    key = models.CharField(max_length=64)
    recorded_at = models.DateTimeField()
    # Null until it is numbered; then without gaps.
    position = models.BigIntegerField(null=True)
    # Random: recognizes a position that a restored backup has given to another change.
    mark = models.BigIntegerField()

    class Meta:
        constraints: ClassVar = [
            # Two requests must not give one position to two changes; cursors look their row up.
            models.UniqueConstraint(fields=["position"], name="object_change_position_once"),
        ]
        indexes: ClassVar = [
            # Pages of one kind.
            models.Index(fields=["kind", "position"], name="object_changes_of_kind"),
            # Changes that must be numbered.
            models.Index(fields=["id"], condition=models.Q(position=None), name="object_changes_unnumbered"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"
