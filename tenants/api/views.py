"""What all views of the API share, and the answer of addresses that are none."""

from collections.abc import Iterable
from typing import Any, ClassVar, NoReturn

from django.http import HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import Resolver404, resolve
from django.utils.functional import Promise
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from rest_framework.exceptions import NotAuthenticated, NotFound, ValidationError
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView


class StrictView(APIView):
    """Refuses query parameters that it does not know, and keeps answers out of caches."""

    how_to_authenticate: ClassVar[str | Promise] = _("Log in first.")

    def known_parameters(self) -> Iterable[str]:
        """The query parameters that a GET of this view takes."""
        return ()

    def repeatable_parameters(self) -> Iterable[str]:
        """Those of them that may be given several times."""
        return ()

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if request.method in ("GET", "HEAD"):
            refuse_unknown_parameters(request, self.known_parameters(), self.repeatable_parameters())
        else:
            refuse_unknown_parameters(request, ())

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Response:
        response = super().finalize_response(request, response, *args, **kwargs)
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    def permission_denied(self, request: Request, message: str | None = None, code: str | None = None) -> NoReturn:
        if request.authenticators and not request.successful_authenticator:
            raise NotAuthenticated(str(self.how_to_authenticate))
        super().permission_denied(request, message, code)
        raise AssertionError("permission_denied() raises")


class NoSuchAddress(APIView):
    """404 in the API's own shape for addresses under `api/` that are none; a missing last slash is put there."""

    authentication_classes = ()
    permission_classes = (AllowAny,)
    throttle_classes = ()
    schema = None

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.method in ("GET", "HEAD") and _exists_with_slash(request):
            query = request.META.get("QUERY_STRING", "")
            return HttpResponseRedirect(f"{request.path}/" + (f"?{query}" if query else ""))
        return super().dispatch(request, *args, **kwargs)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> NoReturn:
        if _exists_with_slash(request._request):
            raise NotFound(
                _t("There is nothing at %(path)s: its address ends with a slash, %(path)s/") % {"path": request.path}
            )
        raise NotFound(_t("There is nothing at %(path)s: GET api/v1/ lists what there is.") % {"path": request.path})


def refuse_unknown_parameters(request: Request, known: Iterable[str], repeatable: Iterable[str] = ()) -> None:
    """400 for parameters that are not known or given twice, rather than an answer to another question."""
    names, known, repeatable = request.query_params, sorted(known), set(repeatable)
    known_text = _t("Known here: %(names)s.") % {"names": ", ".join(known)} if known else _t("None is known here.")
    errors = {
        name: _t("There is no parameter %(name)r. %(known)s") % {"name": name, "known": known_text}
        for name in names
        if name not in known
    }
    errors |= {
        name: _t("Give %(name)r once.") % {"name": name}
        for name in names
        if name in known and name not in repeatable and len(request.query_params.getlist(name)) > 1
    }
    if errors:
        raise ValidationError(errors)


def _exists_with_slash(request: HttpRequest) -> bool:
    if request.path_info.endswith("/"):
        return False
    try:
        match = resolve(request.path_info + "/", getattr(request, "urlconf", None))
    except Resolver404:
        return False
    return getattr(match.func, "cls", None) is not NoSuchAddress
