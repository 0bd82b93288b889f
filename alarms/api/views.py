"""The endpoints of alarm rules and alarms."""

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from alarms.api import serializers as shapes
from alarms.api.filters import AlarmFilter, AlarmRuleFilter
from alarms.domain.rule_levels import parse_levels
from alarms.domain.rules import SEVERITIES
from alarms.models import AlarmEpisode, AlarmRule
from alarms.services import actions, rules
from alarms.services.levels import check_levels
from alarms.services.preview import preview
from alarms.services.rule_set import preview_series
from devices.api.views.base import AuditedView, TenantModelViewSet
from tenants.api.errors import ErrorSerializer
from tenants.api.views.base import DeviceScope, ObjectsView
from tenants.services.roles import Role

_SHOWN = {200: shapes.AlarmSerializer, 404: ErrorSerializer, 409: ErrorSerializer}


class AlarmRuleViewSet(TenantModelViewSet):
    """Rules of alarms. Each change makes a version; a removed rule ends its alarms, which stay."""

    resource = "alarms"
    role_to_write = Role.OPERATOR
    queryset = AlarmRule.objects.filter(removed_at=None).select_related("component_type", "metric__unit")
    serializer_class = shapes.AlarmRuleSerializer
    filterset_class = AlarmRuleFilter

    def perform_create(self, serializer: Any) -> None:
        """Create the rule by its service, which writes the audit entry."""
        serializer.instance = rules.add_rule(self.acting_user, **serializer.validated_data)

    def perform_update(self, serializer: Any) -> None:
        """Change the rule by its service, which writes the audit entry."""
        serializer.instance = rules.change_rule(serializer.instance, self.acting_user, **serializer.validated_data)

    def perform_destroy(self, instance: Any) -> None:
        """Remove the rule by its service, which writes the audit entry."""
        rules.remove_rule(instance, self.acting_user)

    def needed_scope(self, reading: bool) -> str:
        """Return the scopes that a key needs: a preview shows values of readings, and changes nothing."""
        return "alarms:read readings:read" if self.action == "preview" else super().needed_scope(reading)

    @extend_schema(
        request=shapes.PreviewRequestSerializer,
        responses={200: shapes.PreviewAnswerSerializer, 400: ErrorSerializer},
        filters=False,
    )
    @action(detail=False, methods=["post"], pagination_class=None, role_to_write=Role.VIEWER)
    def preview(self, request: Request) -> Response:
        """Return the alarms that a rule would have raised in a range of the past, without saving it."""
        wanted = shapes.PreviewRequestSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        given = wanted.validated_data
        check_levels(given["kind"], given["levels"])
        levels = parse_levels(given["kind"], given["levels"])
        series = preview_series(
            given["component_type"], given["metric"], given.get("selector", {}), given.get("max_gap_seconds")
        )
        found = preview(levels, series, given["from"], given["to"], SEVERITIES)
        return Response(shapes.PreviewAnswerSerializer(found).data)


class AlarmViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, AuditedView, ObjectsView, viewsets.GenericViewSet):
    """Alarms, the newest first. Operators and writing keys acknowledge, shelve and end them."""

    resource = "alarms"
    device_scope = DeviceScope.DEVICES
    device_path = "device"
    role_to_write = Role.OPERATOR
    http_method_names = ("get", "head", "post")
    lookup_value_converter = "int"
    lookup_field = "pk"
    lookup_url_kwarg = "id"
    queryset = AlarmEpisode.objects.select_related("rule", "device").order_by("-started_at", "-id")
    serializer_class = shapes.AlarmSerializer
    filterset_class = AlarmFilter

    def get_queryset(self) -> QuerySet[AlarmEpisode]:
        """Return the alarms; a list leaves out those that never were."""
        found = super().get_queryset()
        return found.filter(retracted_at=None) if self.action == "list" else found

    def known_parameters(self) -> Any:
        """Return the names of the accepted query parameters."""
        return self.paginator.parameters if self.action == "history" else super().known_parameters()  # type: ignore[union-attr]

    @extend_schema(responses=shapes.AlarmTransitionSerializer(many=True), filters=False)
    @action(detail=True)
    def history(self, request: Request, id: Any) -> Response:  # noqa: A002 (the name in the URL)
        """Return the transitions of an alarm with their evidence, oldest first, superseded ones included."""
        page = self.paginate_queryset(self.get_object().transitions.order_by("at", "rank", "rank_value", "id"))
        return self.get_paginated_response(shapes.AlarmTransitionSerializer(page, many=True).data)

    @extend_schema(request=shapes.AcknowledgeSerializer, responses=_SHOWN)
    @action(detail=True, methods=["post"], pagination_class=None)
    def acknowledge(self, request: Request, id: Any) -> Response:  # noqa: A002
        """Acknowledge an open alarm: a person has seen it."""
        return self._changed(request, shapes.AcknowledgeSerializer, actions.acknowledge)

    @extend_schema(request=shapes.ShelveSerializer, responses=_SHOWN)
    @action(detail=True, methods=["post"], pagination_class=None)
    def shelve(self, request: Request, id: Any) -> Response:  # noqa: A002
        """Suppress an open alarm until a time, at most 7 days."""
        return self._changed(request, shapes.ShelveSerializer, actions.shelve)

    @extend_schema(request=shapes.EndSerializer, responses=_SHOWN)
    @action(detail=True, methods=["post"], pagination_class=None)
    def end(self, request: Request, id: Any) -> Response:  # noqa: A002
        """End an open alarm by hand. If its condition still holds, a new alarm is raised at once."""
        return self._changed(request, shapes.EndSerializer, actions.end)

    def _changed(self, request: Request, body: Any, change: Any) -> Response:
        wanted = body(data=request.data)
        wanted.is_valid(raise_exception=True)
        changed = change(self.get_object(), **wanted.validated_data, acting_user=self.acting_user)
        return Response(self.get_serializer(changed).data)
