"""Publishers that wait at a gateway: announced by it, and registered as its children by a person."""

from collections.abc import Mapping, Sequence
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _

from devices.models import ComponentType, Device, Metric, Unit, WaitingPublisher
from devices.services import audit, audit_changes

from . import registration

# Of one gateway: anyone in its network can make up publishers.
MAX_WAITING = 500


def announce(gateway: Device, publishers: Sequence[Mapping[str, Any]]) -> int:
    """Store what the gateway has seen, and return how many publishers wait. Children of the gateway do not wait.

    Beyond `MAX_WAITING` only known publishers are updated. Raises ValidationError for a device with a gateway.
    """
    if gateway.gateway_id is not None:
        raise ValidationError(_("The device has a gateway itself, so that it cannot be one."))
    by_name = {one["publisher"]: one for one in publishers}
    with transaction.atomic():
        Device.objects.select_for_update().get(pk=gateway.pk)
        known = set(gateway.waiting_publishers.values_list("publisher", flat=True))
        children = Device.objects.filter(external_id__in=by_name).values_list("external_id", flat=True)
        new = [name for name in by_name if name not in known]
        kept = known | set(new[: max(0, MAX_WAITING - len(known))])
        now = timezone.now()
        rows = [
            WaitingPublisher(
                gateway=gateway,
                publisher=name,
                message_count=one["message_count"],
                example=one["example"],
                contract=one["contract"],
                last_seen_at=now,
            )
            for name, one in by_name.items()
            if name in kept and name not in set(children)
        ]
        WaitingPublisher.objects.bulk_create(
            rows,
            update_conflicts=True,
            unique_fields=["gateway", "publisher"],
            update_fields=["message_count", "example", "contract", "last_seen_at"],
        )
        gateway.waiting_publishers.filter(publisher__in=children).delete()
        return gateway.waiting_publishers.count()


def register(waiting: WaitingPublisher, *, name: str = "", acting_user: audit.Actor = None) -> Device | None:
    """Register the publisher as a child of its gateway, with the proposed component type, which is created where it is
    missing. Return the device; None if another request has registered or removed the publisher meanwhile.

    Raises ValidationError where its external id is taken, and SecretsUnavailable if Vault is unavailable.
    """
    with transaction.atomic():
        locked = WaitingPublisher.objects.select_for_update().filter(pk=waiting.pk).first()
        if locked is None:
            return None
        dialect, _colon, own_name = locked.publisher.partition(":")
        component_type = _component_type(locked.contract, acting_user)
        device, _issued = registration.register_device(
            name=name or own_name,
            gateway=locked.gateway,
            external_id=locked.publisher,
            components={dialect: component_type},
            acting_user=acting_user,
        )
        locked.delete()
    return device


def remove(waiting: WaitingPublisher, *, acting_user: audit.Actor = None) -> None:
    """Remove the publisher; it waits again when the gateway announces it again."""
    with transaction.atomic():
        audit.record(acting_user, "remove", waiting, changes=audit_changes.removed(waiting))
        waiting.delete()


def _component_type(contract: Mapping[str, Any], acting_user: audit.Actor) -> ComponentType:
    found = ComponentType.objects.filter(key=contract["key"]).first()
    if found is not None:
        return found
    component_type = ComponentType(key=contract["key"], name=contract["name"])
    component_type.full_clean()
    component_type.save()
    audit.record(acting_user, "add", component_type, changes=audit_changes.added(component_type))
    for given in contract["metrics"]:
        metric = _metric(component_type, given)
        metric.full_clean()
        metric.save()
        audit.record(acting_user, "add", metric, changes=audit_changes.added(metric))
    return component_type


def _metric(component_type: ComponentType, given: Mapping[str, Any]) -> Metric:
    """Return the metric; without a unit where the tenant has none of the name."""
    unit = _unit(given.get("unit", ""))
    options = {name: given[name] for name in ("true_value", "false_value") if name in given}
    if unit is not None and "unit_path" in given:
        options["unit_path"] = given["unit_path"]
    return Metric(
        component_type=component_type,
        key=given["key"],
        path=given["path"],
        value_type=given["value_type"],
        unit=unit,
        **options,
    )


def _unit(name: str) -> Unit | None:
    return Unit.objects.filter(Q(symbol=name) | Q(name=name) | Q(ucum=name)).first() if name else None
