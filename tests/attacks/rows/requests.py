"""Programs that send requests in a loop."""

from collections import Counter

from tenants.infrastructure.throttling import TenantThrottle
from tests.attacks.arena import Arena
from tests.attacks.attack import Measurement, attack, brake

_PER_MINUTE = 10


@brake("requests of a tenant")
def without_throttle() -> None:
    """Accept every number of requests."""
    TenantThrottle.allow_request = lambda *_: True  # type: ignore[method-assign]


@attack("request-loop", "one key reads the API in a loop", brake="requests of a tenant", short=True)
def request_loop(arena: Arena) -> Measurement:
    """Read four times as often as allowed; a neighbour reads a few times meanwhile."""
    _, port = arena.serve(env={"API_REQUESTS_PER_MINUTE": str(_PER_MINUTE)})
    greedy = arena.api_probe(port, tenant=arena.attacker)
    neighbour = arena.api_probe(port)
    statuses: Counter[int] = Counter(greedy.get() for _ in range(4 * _PER_MINUTE))
    others = [neighbour.get() for _ in range(3)]
    measurement = Measurement({f"attacker_status_{status}": count for status, count in statuses.items()})
    # The minute may end once meanwhile.
    measurement.bound("answered requests of the attacker", statuses[200], 2 * _PER_MINUTE)
    measurement.bound("refused requests of the neighbour", len(others) - others.count(200), 0)
    return measurement
