"""The history of sign-ins of an account: one row for each address, with counts of successes and failures."""

import datetime
import re
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from tenants.models import SignIn

KEPT_DAYS = 90
_KEPT = datetime.timedelta(days=KEPT_DAYS)
# Beyond this number of addresses an account's further ones are counted together.
MAX_ADDRESSES = 500
OTHER_ADDRESSES = "other"

# One statement for known and unknown accounts: it selects no row for an unknown one, and costs the same.
_COUNT = """
INSERT INTO public.tenants_signin AS s (user_id, address, succeeded, count, first_at, last_at, browser, place)
SELECT u.id,
       CASE WHEN (SELECT count(*) FROM public.tenants_signin o
                  WHERE o.user_id = u.id AND o.succeeded = %(succeeded)s) < %(most)s
            THEN %(address)s ELSE %(other)s END,
       %(succeeded)s, 1, %(now)s, %(now)s, %(browser)s, %(place)s
FROM public.tenants_user u WHERE u.id = %(user)s
ON CONFLICT (user_id, address, succeeded) DO UPDATE
SET count = s.count + 1, last_at = excluded.last_at, browser = excluded.browser, place = excluded.place
"""
_BROWSERS = (("Edg", "Edge"), ("OPR", "Opera"), ("Firefox", "Firefox"), ("Chrome", "Chrome"), ("Safari", "Safari"))
_SYSTEMS = (
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


def record(user_id: int, address: str, *, succeeded: bool, browser: str, place: str) -> None:
    """Count a sign-in of the account; nothing for an id without an account, at the same cost."""
    values: dict[str, Any] = {
        "user": user_id,
        "address": address[:64],
        "other": OTHER_ADDRESSES,
        "most": MAX_ADDRESSES,
        "succeeded": succeeded,
        "now": timezone.now(),
        "browser": browser[:80],
        "place": place[:60],
    }
    with transaction.atomic(), connection.cursor() as cursor:
        # A count may be lost in a crash; waiting for the disk would show that the account exists.
        cursor.execute("SET LOCAL synchronous_commit = off")
        cursor.execute(_COUNT, values)


def forget_old(user_id: int) -> None:
    """Delete the account's addresses without a sign-in in the last 90 days."""
    oldest = timezone.now() - _KEPT
    SignIn.objects.filter(user_id=user_id, last_at__lt=oldest).delete()


def is_known_address(username: str, address: str) -> bool:
    """Return whether the account was signed in to from the address within the last 90 days."""
    return SignIn.objects.filter(
        user__username=username,
        address=address,
        succeeded=True,
        last_at__gte=timezone.now() - _KEPT,
    ).exists()


def browser_name(user_agent: str) -> str:
    """Return browser and system of a User-Agent in words; the beginning of one that names neither."""
    browser = next((name for mark, name in _BROWSERS if f"{mark}/" in user_agent), "")
    system = next((name for mark, name in _SYSTEMS if mark in user_agent), "")
    if browser and system:
        return f"{browser}, {system}"
    return browser or system or _UNPRINTABLE.sub("", user_agent)[:60]
