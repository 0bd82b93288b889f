"""Tags of devices: lower-case words."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

MAX_TAGS = 32
MAX_TAG_LENGTH = 63
_TAG = re.compile(r"^[^\W_][\w.-]*$")


def normalize(given: Sequence[Any]) -> list[str]:
    """Return the tags in order, each once. Raises ValueError that names the first invalid one, or the number."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ValueError(_("Tags must be a list of words."))
    tags = sorted({_normalized(tag) for tag in given})
    if len(tags) > MAX_TAGS:
        raise ValueError(
            _("There must be at most %(most)d tags, not %(number)d.") % {"most": MAX_TAGS, "number": len(tags)}
        )
    return tags


def validate_tags(given: Any) -> None:
    """Raise ValidationError where `normalize` raises ValueError; a validator of model fields."""
    try:
        normalize(given)
    except ValueError as error:
        raise ValidationError(str(error)) from error


def split(text: str) -> list[str]:
    """Return the tags of a text in which semicolons or commas separate them. Raises ValueError."""
    return normalize([word for part in re.split("[;,]", text) if (word := part.strip())])


def _normalized(tag: Any) -> str:
    word = unicodedata.normalize("NFC", tag) if isinstance(tag, str) else ""
    if len(word) > MAX_TAG_LENGTH or word != word.lower() or not _TAG.match(word):
        raise ValueError(
            _(
                "%(tag)r is not a valid tag; use at most %(most)d lower-case letters, digits, hyphens, underscores and"
                " dots, beginning with a letter or digit."
            )
            % {"tag": tag, "most": MAX_TAG_LENGTH}
        )
    return word
