"""Secret values of settings, whose text representation hides them, and the processes that need each of them."""

from collections.abc import Iterable, Mapping
from typing import Self
from urllib.parse import SplitResult, urlsplit, urlunsplit

_HIDDEN = "********"
_EVERY = ("SECRET_KEY", "DATABASE_URL", "REDIS_URL")
_BROKER_ADMINISTRATION = ("MQTT_ADMIN_URL", "EMQX_API_URL")
# The secrets that each process of the platform needs; the set-up needs all.
NEEDED_SECRETS: Mapping[str, tuple[str, ...]] = {
    "web": (*_EVERY, "MQTT_URL", *_BROKER_ADMINISTRATION, "METRICS_TOKEN"),
    "listener": (*_EVERY, "MQTT_URL"),
    "checker": _EVERY,
    "notifier": (*_EVERY, "MQTT_URL"),
    "alarms": _EVERY,
    "worker": (*_EVERY, "MQTT_URL", *_BROKER_ADMINISTRATION),
    "simulator": _EVERY,
}
# Variables of the environment that contain secrets.
SECRET_VARIABLES = frozenset(
    {*(name for names in NEEDED_SECRETS.values() for name in names), "MQTT_BRIDGE_URL", "BROKER_KEYS"}
)


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


def without_secrets(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of an environment that contain no secrets."""
    return {name: value for name, value in variables.items() if name not in SECRET_VARIABLES}


def as_file(variables: Mapping[str, str], names: Iterable[str]) -> str:
    """Return the text of a file for `GWANJE_ENV_FILE` with those of the variables that are set."""
    return "".join(f"{name}={variables[name]}\n" for name in sorted(names) if variables.get(name))
