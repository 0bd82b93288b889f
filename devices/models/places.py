"""Places of a tenant, such as farms, houses and zones: a tree."""

from collections.abc import Iterable
from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.db import connection, models, transaction
from django.db.models import Q, Value
from django.db.models.functions import Concat, Substr
from django.utils.translation import gettext_lazy as _

from tenants.infrastructure.database import current_schema

from .base import validate_key

MAX_PLACES = 10_000
MAX_DEPTH = 8
_KEY_LENGTH = 63
_SEPARATOR = "/"


class Place(models.Model):
    """A place. `path` has the keys from the root of its tree down to its own, and is computed when a place is saved."""

    key = models.CharField(
        _("key"), max_length=_KEY_LENGTH, unique=True, validators=[validate_key], help_text=_("For example house-3.")
    )
    name = models.CharField(_("name"), max_length=120)
    kind = models.CharField(
        _("kind"), max_length=63, blank=True, help_text=_("For example farm, house or zone. It has no effect.")
    )
    parent = models.ForeignKey(
        "self",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="children",
        verbose_name=_("parent"),
        help_text=_("The place that contains this one."),
    )
    path = models.CharField(
        _("path"), max_length=MAX_DEPTH * (_KEY_LENGTH + 1), editable=False, help_text=_("The keys down to this place.")
    )

    class Meta:
        ordering: ClassVar = ["path"]
        indexes: ClassVar = [
            # The places below one, by the beginning of their paths.
            models.Index(fields=["path"], name="place_path_prefix", opclasses=["varchar_pattern_ops"]),
        ]
        verbose_name = _("place")
        verbose_name_plural = _("places")

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the place, with its path and the paths of all places below it.

        One place of a tenant is saved at a time: two moves at once could make a circle. Raises ValidationError.
        """
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext('gwanje_places'), hashtext(%s))", [current_schema()])
            self._reload_other_columns(kwargs.get("update_fields"))
            before, self.path = self._stored_path(), self._new_path()
            super().save(*args, **kwargs)
            if before not in ("", self.path):
                below = Place.objects.filter(path__startswith=before + _SEPARATOR)
                below.update(path=Concat(Value(self.path), Substr("path", len(before) + 1)))

    def clean(self) -> None:
        """Validate parent and depth; raises ValidationError."""
        self._new_path()

    def _reload_other_columns(self, saved: Iterable[str] | None) -> None:
        """Read what this request does not save: another one may have moved the place meanwhile."""
        others = {"key", "parent"} - set(saved) if saved is not None else set()
        if others and self.pk:
            self.refresh_from_db(fields=sorted(others))

    def _stored_path(self) -> str:
        return Place.objects.filter(pk=self.pk).values_list("path", flat=True).first() or "" if self.pk else ""

    def _new_path(self) -> str:
        """Return the path that follows from parent and key. Raises ValidationError."""
        above = Place.objects.filter(pk=self.parent_id).values_list("path", flat=True).first() if self.parent_id else ""
        if above is None:
            raise ValidationError({"parent": _("This place was removed.")})
        before = self._stored_path()
        if before and f"{above}{_SEPARATOR}".startswith(before + _SEPARATOR):
            raise ValidationError({"parent": _("A place cannot be below itself.")})
        path = f"{above}{_SEPARATOR}{self.key}" if above else self.key
        if path.count(_SEPARATOR) + self._levels_below(before) >= MAX_DEPTH:
            raise ValidationError(
                {"parent": _("Places can be nested %(most)d levels deep at most.") % {"most": MAX_DEPTH}}
            )
        if not before and Place.objects.count() >= MAX_PLACES:
            raise ValidationError(_("A tenant can have at most %(most)d places.") % {"most": MAX_PLACES})
        return path

    def _levels_below(self, before: str) -> int:
        if not before:
            return 0
        paths = Place.objects.filter(path__startswith=before + _SEPARATOR).values_list("path", flat=True)
        return max((path.count(_SEPARATOR) for path in paths), default=before.count(_SEPARATOR)) - before.count(
            _SEPARATOR
        )


def within(paths: Iterable[str], field: str = "path") -> Q:
    """Return the condition that a place's path is one of these or below one; `field` leads to the path."""
    condition = Q(pk__in=[])
    for path in paths:
        condition |= Q(**{field: path}) | Q(**{f"{field}__startswith": path + _SEPARATOR})
    return condition
