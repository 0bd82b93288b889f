"""The lines of a device's last day."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from django_tenants.utils import schema_context

from telemetry.services.charts import DAY, Chart, last_day
from tests.api.conftest import add_readings, add_series, make_device

NOW = timezone.now().replace(microsecond=0)


@pytest.fixture
def device(db: None, tenant_a: Any) -> Any:
    return make_device(tenant_a, "greenhouse")


def drawn(tenant: Any, device: Any) -> list[Chart]:
    with schema_context(tenant.schema_name):
        return last_day(device, NOW)


def test_nothing_to_draw(tenant_a: Any, device: Any) -> None:
    text = add_series(tenant_a, device, "door", "state", "", "text")
    add_readings(tenant_a, text, (NOW, "open"))
    add_series(tenant_a, device, "dht22", "humidity", "%")
    old = add_series(tenant_a, device, "dht22", "temperature", "°C")
    add_readings(tenant_a, old, (NOW - DAY - timedelta(minutes=1), 1.0), (NOW + timedelta(minutes=1), 2.0))
    assert drawn(tenant_a, device) == []


def test_a_short_series_keeps_every_value(tenant_a: Any, device: Any) -> None:
    series = add_series(tenant_a, device, "dht22", "temperature", "°C")
    times = [NOW - timedelta(seconds=seconds) for seconds in (40, 20, 0)]
    add_readings(tenant_a, series, *zip(times, (1.0, 2.0, 4.5), strict=True))
    (chart,) = drawn(tenant_a, device)
    assert chart.values == [1.0, 2.0, 4.5]
    assert chart.times == [time.timestamp() for time in times]
    assert (chart.start, chart.stop) == (times[0].timestamp(), NOW.timestamp())
    assert chart.series.unit == "°C"


def test_a_day_is_thinned_to_means_with_its_gap_shown(tenant_a: Any, device: Any) -> None:
    series = add_series(tenant_a, device, "dht22", "temperature", "°C")
    minutes = [minute for minute in range(0, 24 * 60, 2) if not 600 <= minute < 700]
    add_readings(tenant_a, series, *((NOW - DAY + timedelta(minutes=m), float(m)) for m in minutes))
    (chart,) = drawn(tenant_a, device)
    numbers = [value for value in chart.values if value is not None]
    assert len(numbers) <= 289
    assert numbers == sorted(numbers)
    assert sum(value is None for value in chart.values) == 1
    gap = chart.values.index(None)
    assert chart.values[gap - 1] == pytest.approx(598, abs=5)
    assert chart.values[gap + 1] == pytest.approx(702, abs=5)


def test_each_series_is_a_chart_of_its_own(tenant_a: Any, device: Any) -> None:
    for unit, value in (("°C", 20.0), ("°F", 68.0)):
        add_readings(tenant_a, add_series(tenant_a, device, "dht22", "temperature", unit), (NOW, value))
    assert [(chart.series.unit, chart.values) for chart in drawn(tenant_a, device)] == [("°C", [20.0]), ("°F", [68.0])]
