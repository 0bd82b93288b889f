"""Base classes of views that change a tenant's objects with an audit row."""

from typing import Any, ClassVar, cast

from django.db import transaction
from django.db.models import Model
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, viewsets
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer

from devices.api.idempotency import answering_once
from devices.models import ApiKey
from devices.services import audit, audit_changes
from tenants.api.entity_tags import TaggedObject
from tenants.api.errors import ErrorSerializer
from tenants.api.views.base import ObjectsView, TenantView
from tenants.models import User


class AuditedView(TenantView):
    """A view whose requests change something. A POST with an `Idempotency-Key` is carried out once."""

    accepts_idempotency_key = True
    # Members of the answers to POST that are never stored, in addition to those of `devices.api.idempotency`.
    secret_members: ClassVar[frozenset[str]] = frozenset()

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Check the request before its handler runs."""
        super().initial(request, *args, **kwargs)
        if request.method == "POST":
            handler = getattr(self, "post", self.http_method_not_allowed)
            setattr(self, "post", answering_once(handler, self.secret_members))  # noqa: B010 (REST framework's name)

    @property
    def acting_user(self) -> User | ApiKey:
        """Return the user or API key that the audit names; the permissions let nothing else past."""
        return cast("User | ApiKey", self.request.user)


class AuditedUpdate(TaggedObject, mixins.UpdateModelMixin, AuditedView, ObjectsView):
    """PATCH, with the audit row in the same transaction, and the ETag of the object."""

    def perform_update(self, serializer: BaseSerializer[Any]) -> None:
        """Change the object by its service."""
        with transaction.atomic():
            changed = ", ".join(sorted(serializer.validated_data))
            with audit.changing(self.acting_user, "change", cast("Model", serializer.instance), changed):
                serializer.save()


class TenantModelViewSet(
    mixins.CreateModelMixin,
    mixins.RetrieveModelMixin,
    AuditedUpdate,
    mixins.DestroyModelMixin,
    mixins.ListModelMixin,
    ObjectsView,
    viewsets.GenericViewSet,
):
    """List, add, read, change (PATCH) and remove, each change with its audit row in one transaction."""

    http_method_names = ("get", "head", "post", "patch", "delete")
    lookup_value_converter = "int"
    lookup_field = "pk"
    lookup_url_kwarg = "id"

    def perform_create(self, serializer: BaseSerializer[Any]) -> None:
        """Create the object by its service."""
        with transaction.atomic():
            added = serializer.save()
            audit.record(self.acting_user, "add", added, changes=audit_changes.added(added))

    @extend_schema(responses={204: None, 409: ErrorSerializer})
    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Delete the object."""
        return super().destroy(request, *args, **kwargs)

    def perform_destroy(self, instance: Model) -> None:
        """Delete the object by its service."""
        with transaction.atomic():
            audit.record(self.acting_user, "remove", instance, changes=audit_changes.removed(instance))
            instance.delete()
