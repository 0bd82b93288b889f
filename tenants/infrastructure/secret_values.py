"""Secret values of settings, whose text representation hides them: in logs, in tracebacks, and in lists of settings."""

from typing import Self
from urllib.parse import SplitResult, urlsplit, urlunsplit

_HIDDEN = "********"


class SecretText(str):
    """A secret for a library that needs a str: only its `repr` hides it, which is what lists of settings show."""

    def __repr__(self) -> str:
        return repr(_HIDDEN)


class SecretUrl:
    """A URL that may contain a password. Only `reveal` returns it, for the place where the connection is made."""

    __slots__ = ("_url",)

    def __init__(self, url: "str | SecretUrl") -> None:
        self._url: str = reveal(url)

    def reveal(self) -> str:
        """Return the URL with its password."""
        return self._url

    def replace(self, old: str, new: str) -> Self:
        """Return the URL with another part, for example another port."""
        return type(self)(self._url.replace(old, new))

    @property
    def parts(self) -> SplitResult:
        """The scheme, host and port, with the user and the password hidden."""
        parts = urlsplit(self._url)
        _login, at, address = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{_HIDDEN}@{address}" if at else address, query=_HIDDEN if parts.query else "")

    def __bool__(self) -> bool:
        return bool(self._url)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretUrl | str) and self._url == reveal(other)

    def __hash__(self) -> int:
        return hash(self._url)

    def __str__(self) -> str:
        try:
            return urlunsplit(self.parts)
        except ValueError:  # not a URL, which its user will say
            return _HIDDEN

    def __repr__(self) -> str:
        return repr(str(self))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        return self

    def __reduce__(self) -> str:
        raise TypeError("A secret is not written to a file, a cache or a queue.")


def reveal(value: "SecretUrl | str") -> str:
    """Return the text of a secret URL, or of one that is not secret."""
    return value.reveal() if isinstance(value, SecretUrl) else str(value)
