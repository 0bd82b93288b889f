"""The origins whose pages may use the API: a scheme, a host name, and a port where it is not the scheme's own."""

import re
from collections.abc import Sequence

from django.core.exceptions import ImproperlyConfigured

ORIGIN_PATTERN = r"^(?:\*|https?://[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?(?::[1-9][0-9]{0,4})?)$"
_ORIGIN = re.compile(ORIGIN_PATTERN)


def parse_origins(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the origins of a setting. Raises ImproperlyConfigured that names the wrong one."""
    for text in texts:
        if not _ORIGIN.match(text):
            raise ImproperlyConfigured(
                f"CORS_ORIGINS must contain origins, for example https://app.example.com, or *: not {text!r}."
            )
    return tuple(texts)
