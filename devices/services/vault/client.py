"""How a process reaches Vault: one login of its role, kept alive, and reads that are cheap and safe in any thread.

Logging in and reading are done here; what else is asked of Vault, by those who may write there, goes through hvac.
It is loaded with the first such call: a listener, which only reads, spares itself 6 MB.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import certifi
import urllib3
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    import hvac

Result = TypeVar("Result")

# A role that is refused must not fill Vault's audit log with attempts.
_LOGIN_PAUSE_SECONDS = 1.0
_CONNECTIONS = 8


class SecretsUnavailable(Exception):
    """Vault is down, sealed, slow, or refuses our role: nothing is known about the secret."""


class SecretMissing(Exception):
    """Vault answered: there is no such device or version."""


class SecretConflict(Exception):
    """Somebody else has written a version meanwhile: read again which is the newest."""


class Refused(Exception):
    """Vault refuses our token."""


class Invalid(Exception):
    """Vault says that what is asked is wrong."""


class Http:
    """Vault's addresses, for any thread. hvac's own read costs 1.1 ms of CPU, this one 0.3: a listener that starts
    reads every device's key.
    """

    def __init__(self) -> None:
        self._pool = urllib3.PoolManager(
            maxsize=_CONNECTIONS,
            timeout=urllib3.Timeout(connect=settings.VAULT_TIMEOUT, read=settings.VAULT_TIMEOUT),
            retries=urllib3.Retry(connect=0, read=0, redirect=2, other=0, status=0),
            ca_certs=os.environ.get("VAULT_CACERT") or certifi.where(),
        )

    def ask(self, method: str, path: str, *, token: str = "", body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Vault's JSON. Raises Refused, Invalid, SecretMissing, SecretsUnavailable."""
        try:
            answer = self._request(method, path, token, body)
        except urllib3.exceptions.HTTPError as error:
            raise SecretsUnavailable(_text(error)) from error
        match answer.status:
            case HTTPStatus.OK:
                found: dict[str, Any] = json.loads(answer.data)
                return found
            case HTTPStatus.FORBIDDEN:
                raise Refused("Vault refuses our token")
            case HTTPStatus.NOT_FOUND:
                raise SecretMissing("no such secret or version")
            case HTTPStatus.BAD_REQUEST:
                raise Invalid("Vault says that the request is wrong")
        raise SecretsUnavailable(f"Vault: status {answer.status}")

    def _request(self, method: str, path: str, token: str, body: dict[str, Any] | None) -> urllib3.BaseHTTPResponse:
        url, headers = f"{settings.VAULT_ADDR}/v1/{path}", {"X-Vault-Token": token} if token else {}
        try:
            return self._pool.request(method, url, headers=headers, json=body)
        except urllib3.exceptions.ProtocolError:
            # Vault has closed the idle connection: reads, logins and renewals may be repeated.
            return self._pool.request(method, url, headers=headers, json=body)


class Login:
    """The token of one role, shared by the threads of a process; renewed in time, replaced when it is refused."""

    def __init__(self, role: str, http: Http) -> None:
        if not settings.VAULT_ADDR or not settings.VAULT_APPROLE_DIR:
            raise ImproperlyConfigured(
                "VAULT_ADDR and VAULT_APPROLE_DIR are not set: secrets are kept in Vault and nowhere else."
            )
        self._file = Path(settings.VAULT_APPROLE_DIR) / f"{role}.json"
        self._http = http
        self._lock = threading.Lock()
        self._token = ""
        self._lease = 0.0
        self._renew_at = 0.0
        self._login_at = float("-inf")

    def token(self) -> str:
        """The role's token, kept alive. Raises SecretsUnavailable."""
        if not self._token or time.monotonic() >= self._renew_at:
            with self._lock:
                if not self._token:
                    self._log_in()
                elif time.monotonic() >= self._renew_at:
                    self._renew()
        return self._token

    def replace(self, refused: str) -> str:
        """Another token for the one that was refused, unless another thread has seen to it already."""
        with self._lock:
            if self._token == refused:
                self._log_in()
            return self._token

    def _renew(self) -> None:
        try:
            lease = self._http.ask("POST", "auth/token/renew-self", token=self._token)["auth"]["lease_duration"]
        except (Refused, Invalid):
            self._log_in()
            return
        # Close to the token's greatest age the lease comes back shorter than asked: begin a new one in time.
        self._log_in() if lease < self._lease / 2 else self._set_renewal(lease)

    def _log_in(self) -> None:
        now = time.monotonic()
        if now - self._login_at < _LOGIN_PAUSE_SECONDS:
            raise SecretsUnavailable("Vault refuses our token; the next login waits for a second to pass")
        self._login_at = now
        try:
            login = json.loads(self._file.read_text())
        except (OSError, ValueError) as error:
            raise SecretsUnavailable(f"{self._file}: {error}") from error
        body = {name: login[name] for name in ("role_id", "secret_id")}
        try:
            answer = self._http.ask("POST", "auth/approle/login", body=body)
        except (Refused, Invalid, SecretMissing) as error:
            raise SecretsUnavailable(f"Vault refuses the login in {self._file.name}") from error
        self._token = answer["auth"]["client_token"]
        self._lease = answer["auth"]["lease_duration"]
        self._set_renewal(self._lease)

    def _set_renewal(self, lease: float) -> None:
        self._renew_at = time.monotonic() + lease / 2


class Connection:
    """Vault, as one role sees it: `ask` and `get` log in and name what goes wrong. `get` may be used by any thread."""

    def __init__(self, role: str) -> None:
        self._http = Http()
        self._login = Login(role, self._http)

    @cached_property
    def client(self) -> "hvac.Client":
        """hvac's client, for `ask`."""
        import hvac

        return hvac.Client(url=settings.VAULT_ADDR, timeout=settings.VAULT_TIMEOUT)

    def ask(self, call: Callable[[], Result]) -> Result:
        """The answer of a call through `client`, logged in; a refused token is replaced once.

        Raises SecretMissing, SecretConflict, SecretsUnavailable. Not for several threads.
        """

        def with_token(token: str) -> Result:
            self.client.token = token
            with _hvac_errors():
                return call()

        return self._answer(with_token)

    def get(self, path: str) -> dict[str, Any]:
        """The `data` that Vault answers a GET of `path` with. Raises SecretMissing, SecretsUnavailable."""
        data: dict[str, Any] = self._answer(lambda token: self._http.ask("GET", path, token=token))["data"]
        return data

    def _answer(self, call: Callable[[str], Result]) -> Result:
        try:
            token = self._login.token()
            try:
                return call(token)
            except Refused:
                return call(self._login.replace(token))
        except (Refused, Invalid) as error:
            raise SecretsUnavailable(_text(error)) from error


@contextmanager
def _hvac_errors() -> Iterator[None]:
    """What hvac raises, as what is raised here."""
    import requests
    from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest, VaultError

    try:
        yield
    except Forbidden as error:
        raise Refused("Vault refuses our token") from error
    except InvalidPath as error:
        raise SecretMissing("no such secret or version") from error
    except InvalidRequest as error:
        if "check-and-set" in str(error):
            raise SecretConflict("another version was written meanwhile") from error
        raise SecretsUnavailable(_text(error)) from error
    except (VaultError, requests.RequestException) as error:
        raise SecretsUnavailable(_text(error)) from error


def _text(error: Exception) -> str:
    # The text of these errors holds addresses and paths, never secrets.
    return f"Vault: {type(error).__name__}: {str(error)[:200]}"
