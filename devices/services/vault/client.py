"""Vault clients: one login per role, kept alive, and reads that are cheap and thread-safe.

Logins and reads are done here; other requests, by roles that may write, use hvac. It is imported with the first such
request: a listener, which only reads, saves 6 MB.
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

# A rejected role must not fill Vault's audit log with attempts.
_LOGIN_PAUSE_SECONDS = 1.0
_CONNECTIONS = 8


class SecretsUnavailable(Exception):
    """Vault is unavailable, sealed, slow, or rejects the role: the secret is unknown."""


class SecretMissing(Exception):
    """Vault has no such device or version."""


class SecretConflict(Exception):
    """Another process has written a version meanwhile: read the newest version again."""


class TokenRefused(Exception):
    """Vault rejects the token."""


class RequestInvalid(Exception):
    """Vault rejects the request as invalid."""


class VaultHttp:
    """HTTP client of Vault, thread-safe. hvac's own read costs 1.1 ms of CPU, this one 0.3: a starting listener reads
    every device's key.
    """

    def __init__(self) -> None:
        self._pool = urllib3.PoolManager(
            maxsize=_CONNECTIONS,
            timeout=urllib3.Timeout(connect=settings.VAULT_TIMEOUT, read=settings.VAULT_TIMEOUT),
            retries=urllib3.Retry(connect=0, read=0, redirect=2, other=0, status=0),
            ca_certs=os.environ.get("VAULT_CACERT") or certifi.where(),
        )

    def ask(self, method: str, path: str, *, token: str = "", body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return Vault's JSON. Raises TokenRefused, RequestInvalid, SecretMissing, SecretsUnavailable."""
        try:
            answer = self._request(method, path, token, body)
        except urllib3.exceptions.HTTPError as error:
            raise SecretsUnavailable(_text(error)) from error
        match answer.status:
            case HTTPStatus.OK:
                found: dict[str, Any] = json.loads(answer.data)
                return found
            case HTTPStatus.FORBIDDEN:
                raise TokenRefused("Vault rejects our token")
            case HTTPStatus.NOT_FOUND:
                raise SecretMissing("no such secret or version")
            case HTTPStatus.BAD_REQUEST:
                raise RequestInvalid("Vault says that the request is wrong")
        raise SecretsUnavailable(f"Vault: status {answer.status}")

    def _request(self, method: str, path: str, token: str, body: dict[str, Any] | None) -> urllib3.BaseHTTPResponse:
        url, headers = f"{settings.VAULT_ADDR}/v1/{path}", {"X-Vault-Token": token} if token else {}
        try:
            return self._pool.request(method, url, headers=headers, json=body)
        except urllib3.exceptions.ProtocolError:
            # Vault has closed the idle connection: reads, logins and renewals can be repeated.
            return self._pool.request(method, url, headers=headers, json=body)


class VaultLogin:
    """The token of one role, shared by the threads of a process; renewed in time, replaced when it is rejected."""

    def __init__(self, role: str, http: VaultHttp) -> None:
        if not settings.VAULT_ADDR or not settings.VAULT_APPROLE_DIR:
            raise ImproperlyConfigured(
                "VAULT_ADDR and VAULT_APPROLE_DIR are not set: secrets are stored in Vault only."
            )
        self._file = Path(settings.VAULT_APPROLE_DIR) / f"{role}.json"
        self._http = http
        self._lock = threading.Lock()
        self._token = ""
        self._lease = 0.0
        self._renew_at = 0.0
        self._login_at = float("-inf")

    def token(self) -> str:
        """Return the role's token, kept alive. Raises SecretsUnavailable."""
        if not self._token or time.monotonic() >= self._renew_at:
            with self._lock:
                if not self._token:
                    self._log_in()
                elif time.monotonic() >= self._renew_at:
                    self._renew()
        return self._token

    def replace(self, refused: str) -> str:
        """Return another token for a rejected one, unless another thread has already replaced it."""
        with self._lock:
            if self._token == refused:
                self._log_in()
            return self._token

    def _renew(self) -> None:
        try:
            lease = self._http.ask("POST", "auth/token/renew-self", token=self._token)["auth"]["lease_duration"]
        except (TokenRefused, RequestInvalid):
            self._log_in()
            return
        # Near the token's maximum age the lease is shorter than requested: log in again in time.
        self._log_in() if lease < self._lease / 2 else self._set_renewal(lease)

    def _log_in(self) -> None:
        now = time.monotonic()
        if now - self._login_at < _LOGIN_PAUSE_SECONDS:
            raise SecretsUnavailable("Vault rejects our token; the next login waits for a second to pass")
        self._login_at = now
        try:
            login = json.loads(self._file.read_text())
        except (OSError, ValueError) as error:
            raise SecretsUnavailable(f"{self._file}: {error}") from error
        body = {name: login[name] for name in ("role_id", "secret_id")}
        try:
            answer = self._http.ask("POST", "auth/approle/login", body=body)
        except (TokenRefused, RequestInvalid, SecretMissing) as error:
            raise SecretsUnavailable(f"Vault rejects the login in {self._file.name}") from error
        self._token = answer["auth"]["client_token"]
        self._lease = answer["auth"]["lease_duration"]
        self._set_renewal(self._lease)

    def _set_renewal(self, lease: float) -> None:
        self._renew_at = time.monotonic() + lease / 2


class VaultConnection:
    """Vault for one role: `ask` and `get` log in and translate errors. `get` is thread-safe."""

    def __init__(self, role: str) -> None:
        self._http = VaultHttp()
        self._login = VaultLogin(role, self._http)

    @cached_property
    def client(self) -> "hvac.Client":
        """Return hvac's client, for `ask`."""
        import hvac

        return hvac.Client(url=settings.VAULT_ADDR, timeout=settings.VAULT_TIMEOUT)

    def ask(self, call: Callable[[], Result]) -> Result:
        """Return the response to a call through `client`, logged in; a rejected token is replaced once.

        Raises SecretMissing, SecretConflict, SecretsUnavailable. Not thread-safe.
        """

        def with_token(token: str) -> Result:
            self.client.token = token
            with _hvac_errors():
                return call()

        return self._answer(with_token)

    def get(self, path: str) -> dict[str, Any]:
        """Return the `data` of Vault's response to a GET of `path`. Raises SecretMissing, SecretsUnavailable."""
        data: dict[str, Any] = self._answer(lambda token: self._http.ask("GET", path, token=token))["data"]
        return data

    def _answer(self, call: Callable[[str], Result]) -> Result:
        try:
            token = self._login.token()
            try:
                return call(token)
            except TokenRefused:
                return call(self._login.replace(token))
        except (TokenRefused, RequestInvalid) as error:
            raise SecretsUnavailable(_text(error)) from error


@contextmanager
def _hvac_errors() -> Iterator[None]:
    """Translate the errors of hvac."""
    import requests
    from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest, VaultError

    try:
        yield
    except Forbidden as error:
        raise TokenRefused("Vault rejects our token") from error
    except InvalidPath as error:
        raise SecretMissing("no such secret or version") from error
    except InvalidRequest as error:
        if "check-and-set" in str(error):
            raise SecretConflict("another version was written meanwhile") from error
        raise SecretsUnavailable(_text(error)) from error
    except (VaultError, requests.RequestException) as error:
        raise SecretsUnavailable(_text(error)) from error


def _text(error: Exception) -> str:
    # The text of these errors contains addresses and paths, never secrets.
    return f"Vault: {type(error).__name__}: {str(error)[:200]}"
