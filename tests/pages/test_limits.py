"""Limits and totals as staff and tenants see them."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django_redis import get_redis_connection
from django_tenants.utils import schema_context

from devices import change_feeds
from telemetry.models import IngestTotals, LimitHit
from telemetry.services.queries.totals_chart import HEIGHT, build_totals_chart
from tenants.models import Plan, Tenant, TenantLimits
from tenants.services.limits import set_limits
from tests.factories import make_device, make_user

from .client import Pages, formset, overflow, sign_in


@pytest.fixture
def console(db: None) -> Pages:
    return Pages("/admin/", make_user("root-of-limits", is_superuser=True, is_staff=True))


def tenant_form(tenant: Tenant, **limits: Any) -> dict[str, Any]:
    """What a browser sends for a tenant's page with limits of its own."""
    own = TenantLimits.objects.filter(tenant=tenant).first()
    row = {"tenant": tenant.pk, "id": own.pk if own else "", **limits}
    members = [{"id": m.pk, "tenant": tenant.pk, "user": m.user_id, "role": m.role} for m in tenant.memberships.all()]
    return (
        {"name": tenant.name}
        | formset("memberships", *members, initial=len(members))
        | formset("limits", row, initial=int(own is not None))
        | formset("domains")
        | formset("aliases")
    )


def test_staff_make_plans_and_give_them_to_tenants(
    console: Pages, tenant_a: Tenant, django_capture_on_commit_callbacks: Any
) -> None:
    answer = console.post("tenants/plan/add/", {"name": "small", "tenant_rate": "5", "daily_quota": "1000"})
    assert answer.status_code == 302
    plan = Plan.objects.get(name="small")
    page = f"tenants/tenant/{tenant_a.pk}/change/"
    assert b"daily quota" in console.get(page).content.lower()
    before = newest_change()
    with django_capture_on_commit_callbacks(execute=True):
        assert console.post(page, tenant_form(tenant_a, plan=plan.pk, device_rate="2")).status_code == 302
    own = TenantLimits.objects.get(tenant=tenant_a)
    assert (own.plan, own.device_rate, own.tenant_rate) == (plan, 2.0, None)
    assert tenant_a.schema_name in change_feeds.spec_changes_since(before + 1), "listeners receive the change"
    before = newest_change()
    with django_capture_on_commit_callbacks(execute=True):
        console.post(f"tenants/plan/{plan.pk}/change/", {"name": "small", "tenant_rate": "6"})
    assert tenant_a.schema_name in change_feeds.spec_changes_since(before + 1)
    assert b"small" in console.get("tenants/plan/").content


def newest_change() -> int:
    return max(change_feeds.spec_changes_since(0).values(), default=0)


@pytest.mark.parametrize(
    ("values", "words"), [({"tenant_rate": "-1"}, "greater than"), ({"tenant_burst": "0"}, "greater")]
)
def test_a_plan_that_makes_no_sense_says_what_to_mend(console: Pages, values: dict[str, str], words: str) -> None:
    answer = console.post("tenants/plan/add/", {"name": "odd", **values})
    assert answer.status_code == 200
    assert words in answer.content.decode()
    assert not Plan.objects.exists()


def test_a_tenant_sees_its_limits_and_what_they_refused(pages: Pages, tenant_a: Tenant, tenant_b: Tenant) -> None:
    assert 'id="limits"' not in pages.get().content.decode(), "nothing is limited"
    set_limits(tenant_a, daily_quota=98765)
    set_limits(tenant_b, daily_quota=43210)
    today = datetime.now(UTC).date()
    with schema_context(tenant_a.schema_name):
        device = make_device(tenant_a, "the chatty one")
        LimitHit.objects.create(day=today, limit="device_rate", device=device, count=1357)
        LimitHit.objects.create(day=today, limit="device_rate", device_id=10**9, count=3)
    first = pages.get().content.decode()
    listed = pages.get("telemetry/limithit/").content.decode()
    for page in (first, listed):
        assert 'id="limits"' in page
        assert "98,765" in page
        assert "1,360" in page, "of all devices"
        assert "43,210" not in page
    assert "the chatty one" in listed
    assert "a removed device" in listed


def totals(day: date, **values: int) -> IngestTotals:
    return IngestTotals(day=day, received=sum(values.values()), **values)


def test_a_bar_is_as_high_as_what_was_received() -> None:
    last = date(2026, 11, 22)
    rows = [
        totals(last, stored=1_000_000, duplicates=1, quarantined=2, rate_limited=0),
        totals(last - timedelta(days=2), stored=400_000, duplicates=50_000, quarantined=30_000, rate_limited=20_000),
        totals(last - timedelta(days=99), stored=5_000_000),
    ]
    chart = build_totals_chart(rows, last, 7)
    assert [bar.totals.day.day for bar in chart.bars] == [16, 17, 18, 19, 20, 21, 22]
    heights = [round(sum(part.height for part in bar.parts)) for bar in chart.bars]
    assert heights == [0, 0, 0, 0, HEIGHT / 2, 0, HEIGHT]
    assert [(part.name, part.height >= 2) for part in chart.bars[-1].parts] == [
        ("stored", True),
        ("duplicates", True),
        ("quarantined", True),
    ], "a little is not nothing"
    assert chart.totals.received == 1_500_003
    assert build_totals_chart([], last, 7).most == 0


def test_the_totals_page_draws_the_law_of_conservation(pages: Pages, tenant_a: Tenant) -> None:
    with schema_context(tenant_a.schema_name):
        IngestTotals.objects.filter(day__gte=datetime.now(UTC).date() - timedelta(days=40)).delete()
        totals(datetime.now(UTC).date(), stored=7001, duplicates=2, quarantined=3, rate_limited=4).save()
    page = pages.get("telemetry/ingesttotals/").content.decode()
    assert "received 7010 = stored 7001 + duplicates 2 + quarantined 3 + rate limited 4" in page
    assert page.count('fill="url(#gw-rate_limited)"') == 2, "in the bar and in the legend"


def test_the_console_shows_every_tenants_totals(console: Pages, tenant_a: Tenant, tenant_b: Tenant) -> None:
    page = console.get().content.decode()
    for tenant in (tenant_a, tenant_b):
        assert f">{tenant.slug}</a>" in page
    assert "All tenants" in page


@pytest.mark.parametrize("width", [1280, 390])
def test_the_pages_fit(live_db: None, visit: Any, tenant_a: Tenant, width: int) -> None:
    set_limits(tenant_a, tenant_rate=50, daily_quota=100_000)

    def look(page: Any) -> list[int]:
        sign_in(page, "/t/alpha/admin/", "owner-alpha")
        widths = [overflow(page)]
        for path in ("telemetry/limithit/", "telemetry/ingesttotals/"):
            page.goto(f"/t/alpha/admin/{path}")
            widths.append(overflow(page))
        return widths

    assert visit(look, width) == [0, 0, 0]
    TenantLimits.objects.filter(tenant=tenant_a).delete()
    get_redis_connection("default").delete(*[f"gwanje:limit:{tenant_a.schema_name}:tenant_rate"])
