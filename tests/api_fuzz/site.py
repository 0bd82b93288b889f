"""A tenant with objects of each kind, and a web server for it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from django_tenants.utils import schema_context

from management.quickstart.hardware import install_hardware
from telemetry.services.ingest.batch_pipeline import build_pipeline
from telemetry.services.pipeline.results import Incoming
from tenants.models import Tenant
from tenants.services.lifecycle import create_tenant
from tests.factories import Registered, register_device
from tests.payloads import topic, v1, v2
from tests.processes import Process, free_port

# A run is not a tenant's usual minute. What the limits answer has tests of its own.
_WITHOUT_LIMITS = {
    "API_REQUESTS_PER_MINUTE": "0",
    "API_KEY_FAILURES_PER_MINUTE": "0",
    "BROKER_FAILURES_PER_MINUTE": "0",
    "CLAIM_FAILURES_PER_HOUR": "100000",
    "QUOTA_DEVICES": "0",
    "QUOTA_API_KEYS": "0",
    "EXPORTS_PER_KEY": "0",
    "EXPORTS_PER_TENANT": "0",
    "EXPORTS_PER_PROCESS": "0",
}


@dataclass(frozen=True, slots=True)
class Site:
    """A running web server, the tenant's address at it, its devices, and an API key with every scope."""

    web: Process
    url: str
    tenant: Tenant
    devices: list[Registered]
    key: str


def start_site(logs: Path, slug: str = "fuzzed") -> Site:
    """Create the tenant with devices and their messages, and start the web server."""
    tenant = create_tenant(slug=slug, name=slug)
    with schema_context(tenant.schema_name):
        install_hardware()
    devices = [register_device(tenant) for _ in range(3)]
    _send(devices)
    port = free_port()
    web = Process(
        *("-m", "uvicorn", "config.asgi:application", "--http", "config.http_protocol:BoundedHttpProtocol"),
        *("--ws", "none", "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"),
        log=logs / "api-fuzz-web.log",
        env={"DATABASE_POOL": "1", **_WITHOUT_LIMITS},
    )
    return Site(web, f"http://127.0.0.1:{port}/t/{slug}/", tenant, devices, _key(tenant))


def _key(tenant: Tenant) -> str:
    from devices.domain.scopes import SCOPES
    from devices.services.api_keys import issue_api_key

    with schema_context(tenant.schema_name):
        return issue_api_key(name="fuzz", scope="custom", scopes=SCOPES)[1]


def _send(devices: list[Registered]) -> None:
    """Store an hour of messages of each device, and have one refused."""
    pipeline, now = build_pipeline(), datetime.now(UTC)
    for device in devices:
        values = [(seq, {"temp": 20 + seq / 10, "humidity": 40 + seq % 5}) for seq in range(1, 61)]
        sent = [(topic(device), v2(device, value, seq=seq, ago=3600 - 60 * seq)) for seq, value in values]
        sent.append((topic(device, "thermocouple"), v1(device, {"temp": 1})))
        pipeline.process([Incoming(name, payload, now + timedelta(seconds=1)) for name, payload in sent])
    pipeline.tick(last=True)
    pipeline.close()
