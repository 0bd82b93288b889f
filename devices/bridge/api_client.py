"""The platform's API, as far as a bridge needs it: the gateway's children, and the publishers that wait."""

import json
import logging
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from .gateway import GatewayChild, Waiting

logger = logging.getLogger(__name__)

_SECONDS = 30
_ANNOUNCED_AT_ONCE = 50


class PlatformUnavailable(Exception):
    """The platform cannot be reached, or refuses the request."""


class RequestRefused(PlatformUnavailable):
    """The platform refuses the content of the request (400)."""


class ApiClient:
    """Requests with an API key. The children of the last answer are in a file, for a start without the platform."""

    def __init__(self, given: dict[str, Any], gateway: str, file: Path) -> None:
        """`given` has the `url` of the tenant's API, a `key`, and optionally the path of a CA file, `tls`."""
        self._url, self._key = str(given["url"]).rstrip("/") + "/", str(given["key"])
        if not self._url.startswith(("http://", "https://")):
            raise SystemExit(f"api: {self._url} must be an http or https address")
        self._gateway, self._file = gateway, file
        self._tls = ssl.create_default_context(cafile=given.get("tls"))

    def stored(self) -> dict[str, GatewayChild]:
        """Return the children of the last answer, by the name of their publisher."""
        try:
            return {
                name: GatewayChild(*child) for name, child in json.loads(self._file.read_text(encoding="utf-8")).items()
            }
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def children(self) -> dict[str, GatewayChild]:
        """Return the gateway's children by their external id. Raises PlatformUnavailable."""
        query = urllib.parse.urlencode(
            {"gateway": self._gateway, "fields": "uuid,external_id,components", "limit": 200}
        )
        found: dict[str, GatewayChild] = {}
        address: str | None = f"{self._url}devices/?{query}"
        while address:
            page = self._send(address)
            for device in page["results"]:
                keys = [component["key"] for component in device["components"]]
                if device["external_id"] and keys:
                    dialect = device["external_id"].partition(":")[0]
                    found[device["external_id"]] = GatewayChild(device["uuid"], dialect if dialect in keys else keys[0])
            address = page["next"]
        self._store(found)
        return found

    def announce(self, waiting: Sequence[tuple[Waiting, dict[str, Any]]]) -> None:
        """Send the publishers that wait, with the component type that each would have. Raises PlatformUnavailable."""
        for start in range(0, len(waiting), _ANNOUNCED_AT_ONCE):
            self._announce(
                [
                    {
                        "publisher": one.report.name,
                        "message_count": one.count,
                        "example": {"value": one.values},
                        "contract": contract,
                    }
                    for one, contract in waiting[start : start + _ANNOUNCED_AT_ONCE]
                ]
            )

    def _announce(self, publishers: list[dict[str, Any]]) -> None:
        """Send publishers; where the platform refuses one of them, the others by themselves."""
        try:
            self._send(f"{self._url}devices/{self._gateway}/waiting-publishers/", {"publishers": publishers})
        except RequestRefused as error:
            if len(publishers) == 1:
                logger.warning("%s cannot wait at the platform: %s", publishers[0]["publisher"], error)
                return
            for publisher in publishers:
                self._announce([publisher])

    def _send(self, address: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        request = urllib.request.Request(address, data, headers)  # noqa: S310 (checked above)
        context = self._tls if address.startswith("https://") else None
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS, context=context) as answer:  # noqa: S310
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            text = error.read().decode("utf-8", "replace")[:500]
            kind = RequestRefused if error.code == HTTPStatus.BAD_REQUEST else PlatformUnavailable
            raise kind(f"{address} answers {error.code}: {text}") from error
        except (OSError, ValueError) as error:
            raise PlatformUnavailable(str(error)) from error

    def _store(self, children: dict[str, GatewayChild]) -> None:
        new = self._file.with_name(f"{self._file.name}.new")
        new.write_text(json.dumps({name: [child.uuid, child.component] for name, child in children.items()}))
        os.replace(new, self._file)
