"""Reading a request's body."""

from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext as _
from rest_framework.exceptions import ParseError
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import JSONParser as BaseJSONParser
from rest_framework.request import Request


class JSONParser(BaseJSONParser):
    """JSON; what is nested deeper than Python follows is refused instead of failing."""

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        """Return the parsed body; raises ParseError."""
        try:
            return super().parse(stream, media_type, parser_context)
        except RecursionError as error:
            raise ParseError(_("The JSON is nested too deeply.")) from error


class JSONErrorsNegotiation(BaseContentNegotiation):
    """Refusals are JSON whatever the client asks for: a browser's EventSource asks for text/event-stream alone."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        """Return the parser of the request's content type."""
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> tuple[Any, str]:
        return renderers[0], renderers[0].media_type
