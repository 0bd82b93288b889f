"""A tenant's addresses, by host name or under /t/{slug}/."""

from django.urls import include, path, re_path
from django.views.generic import RedirectView

from devices.admin import tenant_admin
from tenants.api.views.base import UnknownAddressView
from tenants.api.views.schema import DocsView, SchemaView
from tenants.views import AccountPage, AccountPasswordPage, ErrorsPage

handler400 = "tenants.api.errors.bad_request"
handler404 = "tenants.api.errors.not_found"
handler500 = "tenants.api.errors.server_error"

urlpatterns: list = [
    path("", RedirectView.as_view(pattern_name="admin:index"), name="home"),
    path("admin/", tenant_admin.urls),
    path("account/", AccountPage.as_view(), name="account"),
    path("account/password/", AccountPasswordPage.as_view(), name="account-password"),
    path("i18n/", include("django.conf.urls.i18n")),
    path("api/v1/", include("config.urls_api")),
    path("api/schema/", SchemaView.as_view(), name="api-schema"),
    path("api/docs/errors/", ErrorsPage.as_view(), name="api-errors"),
    path("api/docs/", DocsView.as_view(), name="api-docs"),
    re_path(r"^api/", UnknownAddressView.as_view()),
]
