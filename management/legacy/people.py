"""Import of the old server's users: members of the tenant by e-mail address, and their nicknames of devices."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from uuid import UUID

from django.core.exceptions import ValidationError

from tenants.models import Membership, TenantAlias, User
from tenants.services.roles import reaches

from .context import Context, messages_of, row_of
from .dump import Row
from .report import Problem
from .tables import DEVICES, USER_DEVICES

Role = Membership.Role


@dataclass(slots=True)
class People:
    """The users and their devices. An address keeps its first spelling; its key is the lower case."""

    roles: dict[str, tuple[Role, list[Row]]] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)
    nicknames: dict[UUID, list[tuple[str, str]]] = field(default_factory=dict)  # (address, nickname), owners first
    owners: dict[UUID, str] = field(default_factory=dict)

    def add(self, address: str, role: Role, row: Row | None) -> None:
        """Add a user. The highest role over all devices counts, for the whole tenant."""
        self.written.setdefault(address.lower(), address)
        known, rows = self.roles.get(address.lower(), (role, []))
        rows += [row] if row is not None else []
        self.roles[address.lower()] = (known if reaches(known, role) else role), rows


def read_people(context: Context) -> People:
    """Return the users of the dump."""
    people = People()
    for row in context.read(USER_DEVICES):
        uuid = context.device_of(USER_DEVICES, row)
        if uuid is None:
            continue
        people.add(row["user_email"], row["role"], row)
        if row["role"] is Role.OPERATOR:
            people.owners.setdefault(uuid, row["user_email"])
        if row["nickname"]:
            listed = people.nicknames.setdefault(uuid, [])
            listed.insert(0 if row["role"] is Role.OPERATOR else len(listed), (row["user_email"], row["nickname"]))
    return people


def import_people(context: Context, people: People) -> None:
    """Create a membership for each user. A new account has no password until staff set one."""
    report = context.report.table(USER_DEVICES.name)
    for address, (role, rows) in people.roles.items():
        anchor = rows[0] if rows else Row(0, {})
        with row_of(context, USER_DEVICES, anchor):
            created = _join(context, people.written[address], role)
            report.created += len(rows) if created else 0
            report.unchanged += 0 if created else len(rows)


def _join(context: Context, address: str, role: Role) -> bool:
    """Add a membership; return whether it is new. Raises ValidationError."""
    tenant, report = context.options.tenant, context.report.table(USER_DEVICES.name)
    user = _find(address)
    if user is None:
        user = User(username=address, email=address)
        user.set_unusable_password()
        user.full_clean(exclude=["password"])
        user.save()
        report.notes.append(f"{address} has a new account; set its password in the console.")
    member, created = Membership.objects.get_or_create(user=user, tenant=tenant, defaults={"role": role})
    if not created and not reaches(Role(member.role), role):
        report.notes.append(f"{address} already has the role {member.role} and keeps it (the dump says {role}).")
    return created


def _find(address: str) -> User | None:
    found = list(User.objects.filter(email__iexact=address)[:2]) or list(User.objects.filter(username__iexact=address))
    if len(found) > 1:
        raise ValidationError(f"Several accounts have the address {address}; it must belong to one of them.")
    return found[0] if found else None


def register_aliases(context: Context, owners: Iterable[str]) -> Collection[str]:
    """Register the owners' addresses as topic aliases; return the new ones."""
    tenant, report = context.options.tenant, context.report.table(DEVICES.name)
    added = []
    for owner in sorted(set(owners)):
        if TenantAlias.objects.filter(tenant=tenant, address=owner).exists():
            continue
        alias = TenantAlias(tenant=tenant, address=owner)
        try:
            alias.full_clean()
        except ValidationError as error:
            report.fail(Problem("devices.csv", 0, "owner_email", f"{owner}: {messages_of(error)}"), rows=0)
            continue
        alias.save()
        added.append(owner)
    if added:
        report.notes.append(f"{', '.join(added)} can replace {tenant.slug} in topics.")
    return added
