"""The verification of the audits of one tenant or of all, as lines of a report."""

import re
from collections.abc import Callable
from typing import NamedTuple

from django_tenants.utils import get_public_schema_name, schema_context

from tenants.models import Tenant

from . import audit_chain

_HEAD = re.compile(r"(\d{1,18}):([0-9a-f]{64})")


class Verification(NamedTuple):
    """The result for a tenant's audit, as one line."""

    is_intact: bool
    line: str


def verify_audits(write: Callable[[str], object], slug: str = "", expected: str = "") -> str:
    """Write a line for the tenant with the slug, or for each tenant. Return the problem; empty if all are intact.

    `expected` is a noted head of the one tenant, POSITION:HASH.
    """
    try:
        head, tenants = _head(expected, slug), _tenants(slug)
    except ValueError as error:
        return str(error)
    is_intact = True
    for name, schema in tenants:
        with schema_context(schema):
            result = _verify(name, head)
        write(result.line)
        is_intact = is_intact and result.is_intact
    return "" if is_intact else "An audit is not as it was written."


def _verify(slug: str, expected: audit_chain.Head | None) -> Verification:
    try:
        head, unchained = audit_chain.verify(expected), audit_chain.unchained()
    except audit_chain.BrokenChain as error:
        return Verification(False, f"{slug}: {error}")
    rest = f"; {unchained} entries are not chained: does a worker run?" if unchained else ""
    return Verification(True, f"{slug}: {head.position} entries, head {head}{rest}")


def _tenants(slug: str) -> list[tuple[str, str]]:
    tenants = Tenant.objects.exclude(schema_name=get_public_schema_name())
    tenants = tenants.exclude(state__in=(Tenant.State.CREATING, Tenant.State.FAILED))
    found = list(tenants.filter(**({"slug": slug} if slug else {})).order_by("slug").values_list("slug", "schema_name"))
    if slug and not found:
        raise ValueError(f"There is no tenant {slug!r}.")
    return found


def _head(text: str, slug: str) -> audit_chain.Head | None:
    if not text:
        return None
    found = _HEAD.fullmatch(text)
    if found is None or not slug:
        raise ValueError("'--expect' must be a position and 64 hexadecimal digits, 12:ab…, with '--tenant'.")
    return audit_chain.Head(int(found[1]), found[2])
