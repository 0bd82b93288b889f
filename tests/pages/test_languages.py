"""People get the language that they ask for, on both sides and in the API, and the pages fit in it."""

import re
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings
from django.test import Client

from tenants.models import Membership, Tenant, User
from tests.factories import make_user

from .client import ADMIN, PASSWORD, Pages, overflow, sign_in

HANGUL = re.compile(r"[가-힣]")
KOREAN: dict[str, Any] = {"headers": {"accept-language": "ko-KR,ko;q=0.9,en;q=0.5"}}


@pytest.mark.parametrize(
    ("path", "korean", "english"),
    [
        ("/", "로그인", "Sign in"),
        ("/admin/login/", "로그인", "Password"),
        ("/t/alpha/admin/login/", "로그인", "Password"),
        ("/t/absent/", "테넌트가 없습니다", "There is no tenant"),
        ("/t/alpha/api/v1/devices/?nonsense=1", "API 키를", "Send an API key"),
    ],
)
def test_the_browser_asks_for_korean(db: None, tenant_a: Any, path: str, korean: str, english: str) -> None:
    def text(**options: Any) -> str:
        return Client().get(path, **options).content.decode()

    assert korean in text(**KOREAN)
    assert english not in text(**KOREAN)
    assert english in text()
    assert not HANGUL.search(text().replace("한국어", ""))


@pytest.mark.parametrize("root", ["/", ADMIN.removesuffix("admin/")])
def test_the_language_can_be_switched_and_stays(db: None, tenant_a: Any, root: str) -> None:
    client = Client()
    answer = client.post(f"{root}i18n/setlang/", {"language": "ko", "next": f"{root}admin/login/"})
    assert answer["Location"] == f"{root}admin/login/"
    assert 'lang="ko"' in client.get(f"{root}admin/login/").content.decode()
    assert 'lang="ko"' in client.get("/").content.decode(), "the choice holds on every side"
    client.post(f"{root}i18n/setlang/", {"language": "en", "next": "/"})
    assert 'lang="en"' in client.get("/", **KOREAN).content.decode()


def test_both_admins_are_korean_all_through(pages: Pages, device: Any) -> None:
    pages.client.cookies[settings.LANGUAGE_COOKIE_NAME] = "ko"
    assert "현황 | Alpha" in pages.get().content.decode()
    listed = pages.get("devices/device/").content.decode()
    for word in ("알 수 없음", "마지막 수신", "하드웨어 모델", "장치 관제", "격리"):
        assert word in listed
    staff = Pages("/admin/", make_user("some-staff", None, is_superuser=True))
    staff.client.cookies[settings.LANGUAGE_COOKIE_NAME] = "ko"
    assert "테넌트 추가" in staff.get("tenants/tenant/add/").content.decode()


def test_the_pages_are_korean_and_fit_a_phone(live_db: None, visit: Callable[..., Any], tenant_a: Tenant) -> None:
    name = f"korean-{uuid4().hex[:8]}"
    user = User.objects.create_user(username=name, password=PASSWORD)
    Membership.objects.create(user=user, tenant=tenant_a, role="admin")

    def script(page: Any) -> dict[str, int]:
        page.goto("/")
        page.click("button:has-text('한국어')")
        page.wait_for_selector("text=로그인")
        sign_in(page, "/t/alpha/admin/login/", name)
        assert "현황" in page.title()
        widths = {}
        for path in ("", "devices/device/", "devices/device/add/", "telemetry/quarantined/", "devices/apikey/add/"):
            page.goto(f"/t/alpha/admin/{path}")
            assert page.locator("html").get_attribute("lang") == "ko"
            widths[path] = overflow(page)
        return widths

    assert set(visit(script, width=390).values()) == {0}
