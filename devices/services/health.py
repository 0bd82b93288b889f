"""The health checker's step: devices whose deadline passed become TIMEOUT. Any number of checkers may run.

An expired deadline is moved to a second set with a lease before PostgreSQL is asked: a sign of life that comes
meanwhile finds no deadline and so sets the state itself; a checker that dies leaves the lease to the next.
"""

import logging
from uuid import UUID

from django.conf import settings
from django_redis import get_redis_connection
from django_tenants.utils import schema_context

from devices.models import DeviceStatus
from devices.services import presence
from tenants.models import Tenant
from tenants.schemas import leave_schema

logger = logging.getLogger(__name__)

EXPIRING = "device_expiring"  # member: schema:UUID, score: when another checker may take it over
LEASE_SECONDS = 30.0

# Take up to ARGV[3] members that expired at ARGV[1], leased until ARGV[2]; answers member, last seen, …
_TAKE = """
local taken = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
local left = ARGV[3] - #taken
if left > 0 then
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1], 'LIMIT', 0, left)) do
    taken[#taken + 1] = member
  end
end
local answer = {}
for _, member in ipairs(taken) do
  redis.call('ZREM', KEYS[1], member)
  redis.call('ZADD', KEYS[2], ARGV[2], member)
  answer[#answer + 1] = member
  answer[#answer + 1] = redis.call('ZSCORE', KEYS[3], string.match(member, ':(.*)$')) or ''
end
return answer
"""


def check_once(limit: int = 1000) -> tuple[int, int]:
    """One pass: (deadlines that had passed, devices that became TIMEOUT). Costs nothing where none has passed."""
    redis = get_redis_connection("default")
    at = presence.now()
    answer = redis.eval(_TAKE, 3, presence.DEADLINE, EXPIRING, presence.LAST_SEEN, at, at + LEASE_SECONDS, limit)
    members = [member.decode() for member in answer[::2]]
    by_schema: dict[str, list[tuple[UUID, float]]] = {}
    for member, seen in zip(members, answer[1::2], strict=True):
        schema, uuid = member.rsplit(":", 1)
        by_schema.setdefault(schema, []).append((UUID(uuid), float(seen or at)))
    existing = set(Tenant.objects.filter(schema_name__in=by_schema).values_list("schema_name", flat=True))
    timed_out = sum(presence.set_timeout(schema, found) for schema, found in by_schema.items() if schema in existing)
    if members:
        redis.zrem(EXPIRING, *members)
    return len(members), timed_out


def reconcile() -> int:
    """Give every ONLINE device that has no deadline in Redis a new one. Returns how many were missing."""
    redis = get_redis_connection("default")
    leave_schema()
    missing = 0
    for schema in Tenant.objects.filter(state=Tenant.State.ACTIVE).values_list("schema_name", flat=True):
        with schema_context(schema):
            online = list(
                DeviceStatus.objects.filter(status=DeviceStatus.Status.ONLINE).values_list("device__uuid", flat=True)
            )
        deadline = presence.now() + settings.PRESENCE_TIMEOUT_SECONDS
        for uuid in online:
            missing += redis.zadd(presence.DEADLINE, {f"{schema}:{uuid}": deadline}, nx=True)
    return missing
