"""Actions on a device and its keys in the tenant's admin, each with a confirmation and a message."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from django.contrib import messages
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from unfold.decorators import action
from unfold.enums import ActionVariant

from devices import hooks
from devices.models import Device, DeviceCredential
from devices.services.provisioning import activation, registration
from devices.services.vault.secret_store import SecretMissing, SecretsUnavailable
from tenants.admin.base import coloured, form_page, render_page
from tenants.services.roles import Role

from .base import TenantModelAdmin
from .registration import credentials_context
from .roles import may, person
from .site import page_of

NOT_AVAILABLE = (SecretsUnavailable, SecretMissing, ImproperlyConfigured)


def unavailable_text(error: Exception) -> str:
    """Return the message for a failure of Vault."""
    return _t("Nothing was changed, because the secret store does not respond correctly: %(error)s") % {"error": error}


@contextmanager
def errors_as_messages(request: HttpRequest) -> Iterator[None]:
    """Turn expected errors into messages instead of tracebacks."""
    try:
        yield
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
    except NOT_AVAILABLE as error:
        messages.error(request, unavailable_text(error))


class DeviceActions(TenantModelAdmin):
    """The actions on a device's page. GET asks for confirmation, POST executes."""

    actions_detail: ClassVar = [
        "rotate_key",
        {"title": _("More"), "items": ["deactivate", "activate", "allow_v1", "remove"]},
    ]

    @action(description=_("New key"), icon="key", permissions=["change"], url_path="rotate-key")
    def rotate_key(self, request: HttpRequest, object_id: str) -> HttpResponse:
        device = self.device(request, object_id)
        if request.method != "POST":
            return self._ask(
                request,
                device,
                title=_t("New key for %(device)s") % {"device": device},
                lead=_t("The present keys stay valid for %(days)d days.")
                % {"days": registration.ROTATION_OVERLAP.days},
                submit=_("Issue a key"),
            )
        with errors_as_messages(request):
            issued = registration.rotate_key(device, acting_user=person(request))
            return self.show_credentials(request, device, issued)
        return redirect(page_of(device.pk))

    def show_credentials(
        self, request: HttpRequest, device: Device, issued: registration.IssuedCredentials
    ) -> HttpResponse:
        """Return the page with the credentials, in this response only."""
        return render_page(
            self,
            request,
            "devices/admin/credentials.html",
            title=_("Credentials"),
            obj=device,
            back=page_of(device.pk),
            **credentials_context(request, device, issued),
        )

    @action(description=_("Deactivate"), icon="pause", permissions=["change"])
    def deactivate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._change(
            request,
            object_id,
            lambda device: activation.set_active(device, False, acting_user=person(request)),
            title=_("Deactivate %(device)s"),
            lead=_("Its messages are quarantined until it is activated again."),
            submit=_("Deactivate"),
            danger=True,
        )

    @action(description=_("Activate"), icon="play_arrow", permissions=["change"])
    def activate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._change(
            request,
            object_id,
            lambda device: activation.set_active(device, True, acting_user=person(request)),
            title=_("Activate %(device)s"),
            submit=_("Activate"),
        )

    @action(description=_("Allow version 1"), icon="undo", permissions=["change"], url_path="allow-version-1")
    def allow_v1(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._change(
            request,
            object_id,
            lambda device: registration.allow_version_1(device, acting_user=person(request)),
            title=_("Allow version 1 signatures of %(device)s again"),
            lead=_("For a device with its old firmware again. The next version 2 message ends this exception."),
            submit=_("Allow version 1"),
            danger=True,
        )

    @action(description=_("Remove"), icon="delete", permissions=["change"], variant=ActionVariant.DANGER)
    def remove(self, request: HttpRequest, object_id: str) -> HttpResponse:
        device = self.device(request, object_id)
        if request.method != "POST":
            return self._ask(
                request,
                device,
                title=_t("Remove %(device)s") % {"device": device},
                lead=_(
                    "Only a device without readings can be removed. Its keys and its broker account are removed too."
                ),
                submit=_("Remove"),
                danger=True,
            )
        name, page = str(device), page_of(device.pk)
        with errors_as_messages(request):
            registration.remove_device(device, acting_user=person(request))
            messages.success(request, _t("%(device)s has been removed.") % {"device": name})
            return redirect("admin:devices_device_changelist")
        return redirect(page)

    @action(description=_("Revoke a key"), permissions=["change"], url_path="revoke-key")
    def revoke_key(self, request: HttpRequest, object_id: str) -> HttpResponse:
        device = self.device(request, object_id)
        key = _key_of(device, request.GET.get("version", ""))
        if request.method != "POST":
            return self._ask(
                request,
                device,
                title=_t("Revoke key %(version)d of %(device)s") % {"version": key.version, "device": device},
                lead=_("Messages signed with this key are rejected from now on. This cannot be undone."),
                submit=_("Revoke"),
                danger=True,
            )
        registration.revoke_key(key, acting_user=person(request))
        messages.success(request, _t("Key %(version)d has been revoked.") % {"version": key.version})
        return redirect(page_of(device.pk))

    def device(self, request: HttpRequest, object_id: str) -> Device:
        """Return the device. Raises Http404."""
        device = self.get_object(request, object_id)
        if device is None:
            raise Http404
        return device

    def _change(
        self, request: HttpRequest, object_id: str, change: Callable[[Device], object], *, title: Any, **options: Any
    ) -> HttpResponse:
        device = self.device(request, object_id)
        if request.method != "POST":
            return self._ask(request, device, title=title % {"device": device}, **options)
        change(device)
        messages.success(request, _t("%(device)s has been changed.") % {"device": device})
        return redirect(page_of(device.pk))

    def _ask(self, request: HttpRequest, device: Device, **options: Any) -> HttpResponse:
        return form_page(self, request, None, obj=device, back=page_of(device.pk), **options)


def _key_of(device: Device, version: str) -> DeviceCredential:
    key = device.credentials.filter(version=version).first() if version.isdecimal() else None
    if key is None:
        raise Http404
    return key


_STATES = {
    "valid": (_("valid"), "success"),
    "overlapping": (_("still valid"), "info"),
    "ended": (_("ended"), "neutral"),
    "revoked": (_("revoked"), "danger"),
}


@hooks.panels_below_device.provider(50)
def keys(request: HttpRequest, device: Device) -> SafeString:
    """Return the panel of the device's keys with their validity. Never a secret."""
    revoke = reverse("admin:devices_device_revoke_key", args=[device.pk])
    rows = [
        {
            "key": key,
            "label": coloured(*_STATES[state]),
            "revoke_url": f"{revoke}?version={key.version}" if state in ("valid", "overlapping") else "",
        }
        for key in device.credentials.all()
        for state in [_state_of(key)]
    ]
    context = {"rows": rows, "may_change": may(request, Role.OPERATOR)}
    return render_to_string("devices/admin/keys.html", context, request)


def _state_of(key: DeviceCredential) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.not_after is None:
        return "valid"
    return "overlapping" if key.not_after > timezone.now() else "ended"
