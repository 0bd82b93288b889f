"""Metrics of a component type proposed from a message, and applied."""

from typing import Any

from django.core.exceptions import ValidationError as ModelError
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from devices.api.access import require_scope
from devices.api.filters import device_by_uuid
from devices.api.views.base import AuditedView
from devices.models import ComponentType, Metric
from telemetry.api.serializers import metric_mapping as shapes
from telemetry.models import Quarantined
from telemetry.services.mapping import application, proposal, sample_messages, unmatched_metrics
from tenants.api.errors import ErrorSerializer

# What an API key must also be allowed to read where the example is a stored message.
_SOURCE_SCOPES = {"device": "readings:read", "quarantine_id": "quarantine:read"}


class MetricProposalView(AuditedView):
    """Metrics for a component type, guessed from a message."""

    resource = "metadata"

    @extend_schema(
        operation_id="metric_mapping_proposal",
        request=shapes.ProposalSourceSerializer,
        responses={200: shapes.MetricProposalSerializer, 404: ErrorSerializer},
    )
    def post(self, request: Request, id: int) -> Response:  # noqa: A002 (the name in the address)
        """Propose metrics of the type from a message, with the readings that they would give. Changes nothing."""
        component_type = _type(id)
        wanted = _valid(shapes.ProposalSourceSerializer(data=request.data))
        for member, scope in _SOURCE_SCOPES.items():
            if member in wanted:
                require_scope(request, scope)
        try:
            message = _example(request, component_type, wanted)
            given = wanted.get("metrics")
            metrics = proposal.propose_metrics(component_type, message) if given is None else _metrics(given)
            seen = proposal.preview_mapping(component_type, metrics, message)
        except ModelError as error:
            raise ValidationError(error.messages) from error
        answer = {
            "message": message,
            "metrics": metrics,
            "readings": seen.readings,
            "unmapped": seen.unmapped,
            "refusal": seen.refusal,
        }
        return Response(shapes.MetricProposalSerializer(answer).data)


class UnmatchedMetricsView(AuditedView):
    """Metrics of a component type that find nothing in its messages."""

    resource = "metadata"

    @extend_schema(
        operation_id="metric_mapping_unmatched",
        responses={200: shapes.UnmatchedMetricsSerializer, 404: ErrorSerializer},
    )
    def get(self, request: Request, id: int) -> Response:  # noqa: A002
        """Return the type's metrics without a value in the newest messages, with the paths that they may mean."""
        return Response(shapes.UnmatchedMetricsSerializer(unmatched_metrics.find_unmatched(_type(id))).data)


class MetricMappingView(AuditedView):
    """Metrics that were proposed, accepted."""

    resource = "metadata"

    @extend_schema(
        operation_id="metric_mapping_apply",
        request=shapes.MetricMappingSerializer,
        responses={201: shapes.AppliedMappingSerializer, 404: ErrorSerializer},
    )
    def post(self, request: Request, id: int) -> Response:  # noqa: A002
        """Create the metrics; their stored values without a metric become series of the metrics."""
        component_type = _type(id)
        wanted = _valid(shapes.MetricMappingSerializer(data=request.data))
        try:
            done = application.apply_mapping(component_type, _metrics(wanted["metrics"]), acting_user=self.acting_user)
        except ModelError as error:
            raise ValidationError(error.messages) from error
        return Response(shapes.AppliedMappingSerializer(done).data, status=201)


def _type(pk: int) -> ComponentType:
    found = ComponentType.objects.filter(pk=pk).first()
    if found is None:
        values = {"kind": ComponentType._meta.verbose_name, "name": "id", "value": pk}
        raise NotFound(_("There is no %(kind)s with the %(name)s %(value)s.") % values)
    return found


def _valid(serializer: serializers.Serializer[Any]) -> dict[str, Any]:
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)


def _metrics(given: list[dict[str, Any]]) -> list[Metric]:
    return [Metric(**values) for values in given]


def _example(request: Request, component_type: ComponentType, wanted: dict[str, Any]) -> dict[str, Any]:
    if "payload" in wanted:
        payload = wanted["payload"]
        if isinstance(payload, dict):
            return payload
        if not isinstance(payload, str):
            raise ModelError(_("'payload' must be a JSON object, or a message as text."))
        return proposal.parse_message(payload)
    if "quarantine_id" in wanted:
        row = Quarantined.objects.filter(pk=wanted["quarantine_id"]).first()
        if row is None:
            raise NotFound(_("There is no quarantined message %(id)s.") % {"id": wanted["quarantine_id"]})
        return sample_messages.quarantined_message(row)
    found = sample_messages.sample_messages(component_type, device=device_by_uuid(request, wanted["device"]), limit=1)
    if not found:
        raise NotFound(
            _("The device has no message of a component of the type %(type)s.") % {"type": component_type.key}
        )
    return found[0].message
