"""A whole request for aggregates, as an app of the tenant makes it: with its key, through every middleware."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.test import Client
from django_tenants.utils import schema_context

from devices.services.api_keys import issue_api_key
from telemetry.models import Series
from tenants.models import Tenant

# What the answer says of each hour.
_NAMES = ("count", "min", "max", "avg", "sum", "last")


def prepare(tenant: Tenant, series: Series, start: datetime, stop: datetime) -> Callable[[], list[tuple[Any, ...]]]:
    """A function that asks for the series by the hour: (start, count, min, max, avg, sum, last) of each.

    To be called in the tenant's schema, as this function is. The answer is one that says that it is complete, or
    AssertionError is raised.
    """
    client = Client(headers={"Authorization": f"Bearer {issue_api_key(name='benchmark')[1]}"})
    asked = {
        "device": str(series.device.uuid),
        "metric": series.metric,
        "from": start.isoformat(),
        "to": stop.isoformat(),
        "interval": "1h",
        "timezone": "UTC",
    }

    def ask() -> list[tuple[Any, ...]]:
        # The request leaves the tenant's schema at its end.
        with schema_context(tenant.schema_name):
            answer = client.get(f"/t/{tenant.slug}/api/v1/readings/aggregates/", asked, headers={"Host": "localhost"})
        document = answer.json()
        if answer.status_code != 200 or not document["complete"]:
            raise AssertionError(f"the request for aggregates: {answer.status_code} {document}")
        [one] = document["series"]
        return [
            (datetime.fromisoformat(row["starts_at"]), *(row[name] for name in _NAMES))
            for row in one["results"]
            if row["count"]
        ]

    return ask
