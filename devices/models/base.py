"""Base of the models that device specifications are made of."""

from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models, transaction
from django.utils.translation import gettext_lazy as _

from devices import change_feeds
from devices.domain.text_values import split_words
from tenants.infrastructure.database import current_schema

# Keys are used in topics and in the API's query strings.
validate_key = RegexValidator(
    r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$",
    _("Use letters, digits, hyphens, underscores and dots (63 at most), beginning with a letter or digit."),
)

# A list of words with commas between them.
_MAX_WORDS = 16
_MAX_WORD_LENGTH = 40


def validate_words(text: str) -> None:
    """Raise ValidationError for too many or too long words, or characters that cannot be printed."""
    words = split_words(text)
    if len(words) > _MAX_WORDS:
        raise ValidationError(
            _("At most %(most)d words are possible, not %(count)d.") % {"most": _MAX_WORDS, "count": len(words)}
        )
    for word in words:
        if len(word) > _MAX_WORD_LENGTH or not word.isprintable():
            raise ValidationError(
                _("A word must have at most %(most)d printable characters, not %(word)s.")
                % {"most": _MAX_WORD_LENGTH, "word": repr(word[:60])}
            )


class SpecInput(models.Model):
    """A row of device specifications: saving it makes listeners reload them."""

    # Columns that specifications do not contain.
    not_in_specs: ClassVar[frozenset[str]] = frozenset()

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the row; after the commit, every listener reads the specifications again, if they contain the change."""
        super().save(*args, **kwargs)
        saved = kwargs.get("update_fields")
        if saved is None or not self.not_in_specs.issuperset(saved):
            announce_change()

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        """Delete the row; after the commit, tell every listener to read the specifications again."""
        deleted = super().delete(*args, **kwargs)
        announce_change()
        return deleted


def announce_change() -> None:
    """Notify every listener after the commit that the current tenant's specifications changed."""
    schema = current_schema()
    transaction.on_commit(lambda: change_feeds.publish_spec_change(schema))
