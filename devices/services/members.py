"""Members of the current tenant: adding them, changing their role and selector, removing them.

Only an owner names owners, changes and removes them, and one owner with an active account always remains. An API key
gives and takes only roles whose scopes it has itself.
"""

from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.db.models import QuerySet
from django.utils.translation import gettext as _

from devices.domain.scopes import ROLE_SCOPES
from devices.domain.selector import Selector
from devices.models import ApiKey
from devices.services.notifications.stream_hub import end_streams
from tenants.infrastructure.database import current_schema
from tenants.infrastructure.error_codes import ErrorCode
from tenants.infrastructure.throttling import RedisCounter
from tenants.models import Membership, Tenant, User
from tenants.services.roles import Role, access_of

from . import audit, audit_changes

ALL_DEVICES = Selector()
# Names without an account that a tenant can try in an hour: it must not search the platform for accounts.
UNKNOWN_NAMES_PER_HOUR = 60
_HOUR = 3600
_unknown_names = RedisCounter(_HOUR)


class RoleNotGrantable(Exception):
    """The acting user or key must not give or take the role."""

    def __init__(self, role: str, *, by_key: bool) -> None:
        super().__init__(role)
        self.role, self.by_key = role, by_key

    def __str__(self) -> str:
        if self.by_key and self.role in ROLE_SCOPES:
            text = _("The role %(role)s requires an API key with all scopes of the role: %(scopes)s.")
            return text % {"role": self.role, "scopes": ", ".join(sorted(ROLE_SCOPES[self.role]))}
        return _("Only an owner can give or take the role %(role)s, and no API key can.") % {"role": self.role}


class TooManyUnknownNames(Exception):
    """The tenant has tried too many names without an account within the hour."""

    def __init__(self, wait: int) -> None:
        super().__init__(wait)
        self.wait = wait

    def __str__(self) -> str:
        text = _("More than %(most)d names without an account within an hour. Try again in %(minutes)d minutes.")
        return text % {"most": UNKNOWN_NAMES_PER_HOUR, "minutes": -(-self.wait // 60)}


def members_of(schema: str) -> QuerySet[Membership]:
    """Return the memberships of the tenant with this schema, each with its user."""
    return Membership.objects.filter(tenant__schema_name=schema).select_related("user", "tenant")


def find_user(*, username: str = "", email: str = "") -> User:
    """Return the active account with the user name, or else with the e-mail address, in any case of its letters.

    Raises ValidationError for none and for several; TooManyUnknownNames.
    """
    counter = f"member_names:{current_schema()}"
    unknown, wait = _unknown_names.read(counter)
    if unknown >= UNKNOWN_NAMES_PER_HOUR:
        raise TooManyUnknownNames(wait)
    member, value = ("username", username) if username else ("email", email)
    active = User.objects.filter(is_active=True)
    found = list(active.filter(username=username) if username else active.filter(email__iexact=email)[:2])
    if len(found) == 1:
        return found[0]
    _unknown_names.add(counter)
    if found:
        text = _("Several accounts have the e-mail address %(value)s. Give the 'username' instead.")
    else:
        text = _("There is no active account %(value)s. The platform's staff create accounts.")
    raise ValidationError({member: ValidationError(text % {"value": value}, ErrorCode.DOES_NOT_EXIST)})


def add_member(
    user: User, *, role: str = Role.VIEWER, selector: Selector = ALL_DEVICES, acting_user: audit.Actor
) -> Membership:
    """Make the user a member of the current tenant.

    Raises RoleNotGrantable, QuotaExceeded, and ValidationError for a member and for an owner with a selector.
    """
    with transaction.atomic():
        tenant = _locked_tenant()
        _check_grant(acting_user, tenant, role)
        if Membership.objects.filter(user=user, tenant=tenant).exists():
            text = _("%(user)s is a member of this tenant already.") % {"user": user}
            raise ValidationError(text, ErrorCode.EXISTS)
        member = Membership(user=user, tenant=tenant, role=role, selector=selector.stored())
        _refuse_limited_owner(member)
        member.save()
        audit.record(acting_user, "add", member, changes=audit_changes.added(member))
    return member


def change_member(
    member: Membership, *, role: str | None = None, selector: Selector | None = None, acting_user: audit.Actor
) -> Membership:
    """Change the role, the selector or both, where given; return the member as it is then.

    Its streams are checked at once. Raises RoleNotGrantable, and ValidationError for the last owner and for an owner
    with a selector.
    """
    with transaction.atomic():
        tenant = _locked_tenant()
        member = members_of(tenant.schema_name).get(pk=member.pk)
        new_role = role or member.role
        _check_grant(acting_user, tenant, member.role, new_role)
        if new_role != Role.OWNER:
            _require_another_owner(member)
        stored = member.selector if selector is None else selector.stored()
        with audit.changing(acting_user, "change", member):
            member.role, member.selector = new_role, stored
            _refuse_limited_owner(member)
            member.save(update_fields=["role", "selector"])
        end_streams(tenant.schema_name, user_id=member.user_id)
    return member


def remove_member(member: Membership, *, acting_user: audit.Actor) -> None:
    """Remove the member; its streams end. Raises RoleNotGrantable, and ValidationError for the last owner."""
    with transaction.atomic():
        tenant = _locked_tenant()
        member = members_of(tenant.schema_name).get(pk=member.pk)
        _check_grant(acting_user, tenant, member.role)
        _require_another_owner(member)
        audit.record(acting_user, "remove", member, changes=audit_changes.removed(member))
        end_streams(tenant.schema_name, user_id=member.user_id)
        member.delete()


def lock_members() -> None:
    """Lock the members of the current tenant until the end of the transaction: changes of them are made in turn."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('gwanje_members'), hashtext(%s))", [current_schema()])


def _locked_tenant() -> Tenant:
    lock_members()
    return Tenant.objects.get(schema_name=current_schema())


def _check_grant(actor: audit.Actor, tenant: Tenant, *roles: str) -> None:
    """Raise RoleNotGrantable unless the actor may give and take all the roles; the platform itself may.

    Reads the actor's own role again, under the lock: another request may have changed it meanwhile.
    """
    for role in roles:
        if isinstance(actor, ApiKey) and not ROLE_SCOPES.get(role, frozenset("*")) <= actor.granted:
            raise RoleNotGrantable(role, by_key=True)
        if isinstance(actor, User):
            own = access_of(actor, tenant).role
            if own is not Role.OWNER and (role == Role.OWNER or own is not Role.ADMIN):
                raise RoleNotGrantable(role, by_key=False)


def _require_another_owner(member: Membership) -> None:
    """Raise ValidationError where the member is an owner and no other owner has an active account."""
    if member.role != Role.OWNER:
        return
    owners = Membership.objects.filter(tenant=member.tenant, role=Role.OWNER, user__is_active=True)
    if not owners.exclude(pk=member.pk).exists():
        text = _("%(user)s is the last owner of the tenant. Name another owner first.") % {"user": member.user}
        raise ValidationError(text, ErrorCode.LAST_OWNER)


def _refuse_limited_owner(member: Membership) -> None:
    if member.role == Role.OWNER and member.selector:
        text = _("An owner sees all devices: the selector of an owner must be empty.")
        raise ValidationError({"selector": ValidationError(text, ErrorCode.INVALID)})
