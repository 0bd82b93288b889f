"""Disputes over UUIDs, decided by staff in the console."""

import logging
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.translation import gettext as _
from django_tenants.utils import schema_context

from devices import change_feeds
from devices.models import Device
from devices.services import audit
from devices.services.broker import accounts
from devices.services.vault.secret_store import SecretMissing, SecretsUnavailable, provisioner
from tenants.models import DeviceRoute, RouteCandidate, Tenant

from . import ownership

logger = logging.getLogger(__name__)


def confirm_by_staff(device_uuid: str, schema: str, user_id: int, user_label: str) -> None:
    """Give the UUID's route to the candidate's tenant, in the name of staff; a former owner loses it.

    Raises ValidationError where the tenant is not a candidate.
    """
    uuid, actor = UUID(device_uuid), audit.Named(user_id, user_label)
    with transaction.atomic():
        with schema_context("public"):
            ownership.lock(uuid)
            tenant = Tenant.objects.get(schema_name=schema)
            if not RouteCandidate.objects.filter(device_uuid=uuid, tenant=tenant).delete()[0]:
                raise ValidationError(_("%(tenant)s has not registered this UUID.") % {"tenant": tenant})
            _remove_route(uuid, actor)
            DeviceRoute.objects.create(device_uuid=uuid, tenant=tenant)
        ownership.set_ownership(uuid, schema, Device.Ownership.OWNED, actor, "confirm UUID")
        transaction.on_commit(lambda: _hand_over_account(uuid, schema))


def release_by_staff(device_uuid: str, user_id: int, user_label: str) -> None:
    """Remove the UUID's route, in the name of staff: another tenant can register and prove it."""
    uuid, actor = UUID(device_uuid), audit.Named(user_id, user_label)
    with transaction.atomic(), schema_context("public"):
        ownership.lock(uuid)
        _remove_route(uuid, actor)
        transaction.on_commit(lambda: _close_account(uuid))


def _remove_route(uuid: UUID, actor: audit.Actor) -> None:
    route = DeviceRoute.objects.filter(device_uuid=uuid).select_related("tenant").first()
    if route is None:
        return
    schema = route.tenant.schema_name
    route.delete()
    ownership.set_ownership(uuid, schema, Device.Ownership.DISPUTED, actor, "release UUID")
    transaction.on_commit(lambda: change_feeds.publish_spec_change(schema))


def _hand_over_account(uuid: UUID, schema: str) -> None:
    change_feeds.publish_spec_change(schema)
    try:
        password = provisioner().read(schema, uuid).mqtt_password
        accounts.grant_devices([(uuid, password)])
        accounts.disconnect([uuid])
    except (SecretMissing, SecretsUnavailable, accounts.BrokerUnavailable) as error:
        logger.warning("The broker's account of %s is not its owner's yet (%s); run sync_broker", uuid, error)


def _close_account(uuid: UUID) -> None:
    try:
        accounts.revoke_devices([uuid])
    except accounts.BrokerUnavailable as error:
        logger.warning("The broker still has an account of %s (%s); run sync_broker", uuid, error)
