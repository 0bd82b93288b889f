"""The OpenAPI document: the errors of each operation."""

from typing import Any

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import Direction

from tenants.api.entity_tags import TaggedView
from tenants.api.negotiation import JSONErrorsNegotiation
from tenants.api.problems import CONTENT_TYPE, ErrorSerializer


class ProblemAutoSchema(AutoSchema):
    """Describes every status with which an operation can answer; those of errors have a problem document."""

    def _get_response_bodies(self, direction: Direction = "response") -> dict[str, Any]:
        described = super()._get_response_bodies(direction)
        if direction != "response":
            return described
        statuses = {status for status in described if status >= "400"} | self._error_statuses()
        successes = {status: answer for status, answer in described.items() if status < "400"}
        return successes | {status: self._error(status) for status in sorted(statuses)}

    def _error(self, status: str) -> dict[str, Any]:
        return self._get_response_for_code(ErrorSerializer, status, media_types=[CONTENT_TYPE])

    def _error_statuses(self) -> set[str]:
        statuses = {"400", "404", "500", "503"}
        if self.method in ("PATCH", "DELETE") and isinstance(self.view, TaggedView):
            statuses.add("412")
        if self.method == "POST" and getattr(self.view, "accepts_idempotency_key", False):
            statuses.add("422")
        if self.view.get_authenticators():
            statuses |= {"401", "403"}
        if self.view.get_throttles() or self._has_body():
            statuses.add("429")
        if not isinstance(self.view.get_content_negotiator(), JSONErrorsNegotiation):
            statuses.add("406")
        if self._has_body():
            statuses |= {"408", "409", "413", "415"}
        return statuses

    def _has_body(self) -> bool:
        return self.method in ("POST", "PUT", "PATCH", "DELETE")
