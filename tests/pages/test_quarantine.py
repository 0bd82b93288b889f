"""The quarantine's list, replays and floods in the admin, and messages of no tenant in the console."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django_tenants.utils import schema_context

from telemetry.models import Quarantined, Replay, SuppressedMessages
from tenants.models import Tenant
from tests.factories import add_quarantined, make_device, make_user

from .client import ADMIN, Pages, overflow, sign_in

LIST = "telemetry/quarantined/"
T0 = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)


@pytest.fixture
def operator(db: None, tenant_a: Tenant) -> Pages:
    return Pages(ADMIN, make_user("an-operator", tenant_a, "operator"))


@pytest.fixture
def rows(db: None, tenant_a: Tenant, device: Any) -> list[Any]:
    return [
        add_quarantined(tenant_a, T0, reason="malformed", topic="telemetry/alpha/one", device=device),
        add_quarantined(tenant_a, T0 + timedelta(hours=1), reason="malformed", topic="telemetry/alpha/two"),
        add_quarantined(tenant_a, T0 + timedelta(hours=2), reason="unknown_component", topic="telemetry/alpha/two"),
        add_quarantined(tenant_a, T0 + timedelta(hours=3), reason="bad_signature", topic="telemetry/alpha/two"),
    ]


def begun(tenant: Tenant) -> Replay:
    with schema_context(tenant.schema_name):
        return Replay.objects.select_related("device").get()


@pytest.mark.parametrize(
    ("query", "total"),
    [
        ("", 3),
        ("reason__exact=malformed", 2),
        ("q=TWO", 2),
        ("last_received_at_from_0=2026-11-22&last_received_at_from_1=10:00:00", 2),
        ("last_received_at_to_0=2026-11-22&last_received_at_to_1=10:30:00", 2),
        ("reason__exact=malformed&q=one", 1),
    ],
)
def test_replaying_what_is_listed(operator: Pages, tenant_a: Tenant, rows: Any, query: str, total: int) -> None:
    page = operator.get(f"{LIST}?{query}").content.decode()
    (link,) = set(re.findall(r'href="([^"]*/quarantined/replay[^"]*)"', page))
    address = link.replace("&amp;", "&")
    asked = operator.client.get(address).content.decode()
    assert f"{total} message" in asked
    answer = operator.client.post(address)
    replay = begun(tenant_a)
    assert answer.headers["Location"].endswith(f"/telemetry/replay/{replay.pk}/change/")
    assert (replay.total, replay.created_by_label) == (total, "an-operator")


def test_replaying_a_devices(operator: Pages, tenant_a: Tenant, rows: Any, device: Any) -> None:
    operator.post(f"{LIST}replay/?device__id__exact={device.pk}")
    assert (begun(tenant_a).total, begun(tenant_a).device) == (1, device)


def test_replaying_chosen_rows(operator: Pages, tenant_a: Tenant, rows: Any) -> None:
    chosen = {"action": "replay_selected", "_selected_action": [rows[0].pk, rows[3].pk]}
    operator.post(LIST, chosen)
    replay = begun(tenant_a)
    assert replay.total == 1, "a bad signature is not replayed"
    page = operator.get(f"telemetry/replay/{replay.pk}/change/").content.decode()
    assert "2 selected messages" in page
    assert "data-under-way" in page
    across = operator.post(LIST + "?q=two", chosen | {"select_across": "1"})
    assert across.headers["Location"].endswith("/quarantined/replay/?q=two")


def test_a_replay_is_watched_and_cancelled(operator: Pages, tenant_a: Tenant, rows: Any) -> None:
    operator.post(f"{LIST}replay/")
    replay = begun(tenant_a)
    with schema_context(tenant_a.schema_name):
        Replay.objects.update(state="running", stored=1, refused={"malformed": 1}, note="Waits: Vault …")
    part = operator.get(f"telemetry/replay/{replay.pk}/change/?part").content.decode()
    assert "<html" not in part
    assert "2 of 3" in " ".join(part.split())
    assert 'value="66"' in part
    assert "Vault does not respond" in part
    assert operator.get(f"telemetry/replay/{replay.pk}/cancel").status_code in (200, 301)
    operator.post(f"telemetry/replay/{replay.pk}/cancel/")
    assert begun(tenant_a).state == "cancelled"
    assert "data-under-way" not in operator.get(f"telemetry/replay/{replay.pk}/change/?part").content.decode()
    assert operator.get("telemetry/replay/").status_code == 200


def test_viewers_see_and_replay_nothing(db: None, tenant_a: Tenant, rows: Any) -> None:
    viewer = Pages(ADMIN, make_user("a-viewer", tenant_a, "viewer"))
    page = viewer.get(LIST).content.decode()
    assert "quarantined/replay" not in page
    assert "replay_selected" not in page
    assert viewer.post(f"{LIST}replay/").status_code == 403
    viewer.post(LIST, {"action": "replay_selected", "_selected_action": [rows[0].pk]})
    with schema_context(tenant_a.schema_name):
        assert not Replay.objects.exists()
        replay = Replay.objects.create(total=1)
    assert viewer.get(f"telemetry/replay/{replay.pk}/change/").status_code == 200
    assert viewer.post(f"telemetry/replay/{replay.pk}/cancel/").status_code == 403


def test_a_replay_of_another_tenant_is_not_there(operator: Pages, tenant_b: Tenant) -> None:
    with schema_context(tenant_b.schema_name):
        foreign = Replay.objects.create(pk=900_001, total=1)
    for below in ("change/", "change/?part", "cancel/"):
        assert operator.get(f"telemetry/replay/{foreign.pk}/{below}").status_code in (302, 404)
    assert operator.post(f"telemetry/replay/{foreign.pk}/cancel/").status_code == 404


def test_what_was_counted_is_shown(operator: Pages, tenant_a: Tenant, rows: Any, device: Any) -> None:
    today = date(2026, 11, 22)
    with schema_context(tenant_a.schema_name):
        for source, sender, times in (("", device, 12345), ("alpha/unnamed", None, 7)):
            SuppressedMessages.objects.create(
                day=today, reason="malformed", device=sender, source=source, count=times, last_received_at=T0
            )
    page = operator.get(LIST).content.decode()
    assert "12,345" in page
    assert "alpha/unnamed" in page
    assert "12,345" not in operator.get(f"{LIST}?reason__exact=replayed").content.decode()
    assert "12345 more were counted" in operator.get(f"{LIST}{rows[0].pk}/change/").content.decode()


def test_staff_gives_messages_to_their_tenants(db: None, tenant_a: Tenant) -> None:
    from django_q.models import OrmQ

    console = Pages("/admin/", make_user("root-of-messages", is_superuser=True, is_staff=True))
    assert "unroutedmessage/replay" in console.get("tenants/unroutedmessage/").content.decode()
    before = OrmQ.objects.count()
    assert console.post("tenants/unroutedmessage/replay/").status_code == 302
    assert OrmQ.objects.count() == before + 1
    plain = Pages("/admin/", make_user("plain-staff", is_staff=True))
    assert plain.post("tenants/unroutedmessage/replay/").status_code == 403
    page = console.get(f"tenants/tenant/{tenant_a.pk}/change/").content.decode()
    assert f"/t/{tenant_a.slug}/admin/telemetry/quarantined/" in page


def test_a_replay_in_a_browser(
    live_db: None, tenant_a: Tenant, visit: Callable[..., Any], start: Callable[..., Any], tmp_path: Any
) -> None:
    """A person replays, and sees the page fill up by itself; nothing is wider than a phone."""
    with schema_context(tenant_a.schema_name):
        Quarantined.objects.all().delete()
        SuppressedMessages.objects.create(
            day=T0.date(), reason="malformed", source="alpha/x", count=12345, detail="d" * 300, last_received_at=T0
        )
        for number in range(3):
            add_quarantined(
                tenant_a, T0, reason="malformed", topic=f"telemetry/alpha/{number}" + "x" * 90, payload=b"{"
            )

    def script(page: Any) -> list[int]:
        widths = []
        sign_in(page, ADMIN + LIST, "owner-alpha")
        widths.append(overflow(page))
        page.screenshot(path=tmp_path / f"list-{page.viewport_size['width']}.png")
        page.goto(ADMIN + LIST + "replay/")
        widths.append(overflow(page))
        page.click("button:has-text('Replay')")
        page.wait_for_url("**/telemetry/replay/**")
        page.locator("[data-under-way]").wait_for()
        page.screenshot(path=tmp_path / f"waiting-{page.viewport_size['width']}.png")
        worker = start("manage.py", "qcluster")
        page.locator("#progress:has-text('3 of 3 messages')").wait_for(timeout=30_000)
        page.wait_for_timeout(1500)
        widths.append(overflow(page))
        page.screenshot(path=tmp_path / f"done-{page.viewport_size['width']}.png")
        worker.stop()
        return widths

    for width in (390, 1280):
        assert visit(script, width) == [0, 0, 0]
    with schema_context(tenant_a.schema_name):
        assert Replay.objects.filter(state="done").count() == 2
        Quarantined.objects.all().delete()
        SuppressedMessages.objects.all().delete()
        Replay.objects.all().delete()


def test_the_lists_queries_do_not_grow(operator: Pages, tenant_a: Tenant, count_queries: Any) -> None:
    device = make_device(tenant_a, "of many")
    for _ in range(3):
        add_quarantined(tenant_a, T0, device=device)
    few = count_queries(lambda: operator.get(LIST))
    for _ in range(20):
        add_quarantined(tenant_a, T0, device=device)
    assert count_queries(lambda: operator.get(LIST)) == few
