"""The addresses of the public side, which belong to no tenant."""

from django.contrib.auth.views import LogoutView
from django.urls import include, path, re_path
from rest_framework.routers import SimpleRouter

from devices.api.views.provisioning import CredentialsView
from tenants.admin import console
from tenants.api.views.base import UnknownAddressView
from tenants.api.views.schema import DocsView, SchemaView
from tenants.api.views.service_keys import ServiceKeyViewSet
from tenants.api.views.tenants import PlanViewSet, TenantViewSet
from tenants.views import AccountPage, AccountPasswordPage, ErrorsPage, LandingPage

handler400 = "tenants.api.errors.bad_request"
handler404 = "tenants.api.errors.not_found"
handler500 = "tenants.api.errors.server_error"

router = SimpleRouter(use_regex_path=False)
router.register("tenants", TenantViewSet, "tenant")
router.register("plans", PlanViewSet, "plan")
router.register("service-keys", ServiceKeyViewSet, "service-key")

urlpatterns: list = [
    path("", LandingPage.as_view(), name="home"),
    path("logout/", LogoutView.as_view(next_page="home"), name="logout"),
    path("admin/", console.urls),
    path("account/", AccountPage.as_view(), name="account"),
    path("account/password/", AccountPasswordPage.as_view(), name="account-password"),
    path("i18n/", include("django.conf.urls.i18n")),
    path("api/v1/", include(router.urls)),
    path("api/v1/provisioning/credentials/", CredentialsView.as_view(), name="provisioning-credentials"),
    path("api/schema/", SchemaView.as_view(), name="api-schema"),
    path("api/docs/errors/", ErrorsPage.as_view(), name="api-errors"),
    path("api/docs/", DocsView.as_view(), name="api-docs"),
    re_path(r"^api/", UnknownAddressView.as_view()),
]
