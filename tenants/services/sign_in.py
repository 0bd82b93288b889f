"""Signing in with a password: throttle, check, log and history, for every place that checks a password."""

import hashlib
import hmac
import logging
import secrets
from collections.abc import Callable

from django.conf import settings
from django.contrib.auth.hashers import make_password, verify_password
from django.core import signing
from django.http import HttpRequest, HttpResponse

from tenants.infrastructure.client_address import address_group
from tenants.infrastructure.password_hashing import HashingBusy
from tenants.models import User

from . import sign_in_history
from .sign_in_throttle import AttemptSource, TooManyAttempts, account_key, count_attempt, count_success, uncount

logger = logging.getLogger(__name__)

_BROWSER_SALT = "gwanje.browser"
_BROWSER_SECONDS = 180 * 86400
# Accounts that one browser's cookie contains.
_MAX_ACCOUNTS = 5

# A password that is rejected without a check: the status, and the seconds after which to try again.
SignInRejected = (TooManyAttempts, HashingBusy)
Permission = Callable[[User], bool]


def authenticate(
    request: HttpRequest | None, username: str, password: str, *, place: str, may_enter: Permission
) -> User | None:
    """Return the account with this name and password that may enter; None for every other reason alike.

    `place` names the form for log and history. Raises TooManyAttempts or HashingBusy without a check.
    """
    source = _source(request, username)
    try:
        count_attempt(source)
    except TooManyAttempts as error:
        _log(request, None, username, place, f"throttled_by_{error.limit}")
        raise
    user = User.objects.filter(username=username).first()
    # Queried before the password is checked, and for unknown names too: the time says nothing about either.
    candidate = user if user is not None and user.is_active else User(pk=0)
    admitted = may_enter(candidate) and candidate is user
    try:
        correct, outdated = _check(user, password)
    except HashingBusy:
        uncount(source)
        _log(request, user, username, place, "busy")
        raise
    if user is None or not (correct and admitted):
        _fail(request, source, user, username, place, "not_admitted" if correct else "wrong_password")
        return None
    _succeed(request, source, user, password if outdated else None, place)
    return user


def check_own_password(request: HttpRequest, user: User, password: str) -> bool:
    """Return whether a signed-in user's password is this one, with the limits of a sign-in."""
    return authenticate(request, user.get_username(), password, place="password", may_enter=lambda _user: True) == user


def remember_browser(request: HttpRequest, response: HttpResponse, user: User) -> None:
    """Give the browser of a successful sign-in the cookie by which its later attempts are counted."""
    browser, accounts = _browser_cookie(request)
    key = account_key(user.get_username())
    accounts = [key, *(other for other in accounts if other != key)][:_MAX_ACCOUNTS]
    response.set_cookie(
        settings.BROWSER_COOKIE_NAME,
        signing.dumps([browser or secrets.token_hex(8), accounts], salt=_BROWSER_SALT),
        max_age=_BROWSER_SECONDS,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )


def _check(user: User | None, password: str) -> tuple[bool, bool]:
    """Return whether the password is correct, and whether its hash is outdated; hashes for unknown accounts too."""
    if user is None:
        make_password(password)
        return False, False
    return verify_password(password, user.password)


def _succeed(
    request: HttpRequest | None, source: AttemptSource, user: User, password_to_hash: str | None, place: str
) -> None:
    count_success(source)
    if password_to_hash is not None:
        _replace_hash(user, password_to_hash)
    _log(request, user, user.get_username(), place, "succeeded")
    _record(request, source, user, place, succeeded=True)
    sign_in_history.forget_old(user.pk)


def _replace_hash(user: User, password: str) -> None:
    try:
        user.password = make_password(password)
    except HashingBusy:
        return  # the next sign-in replaces it
    user.save(update_fields=["password"])


def _fail(
    request: HttpRequest | None, source: AttemptSource, user: User | None, username: str, place: str, reason: str
) -> None:
    _log(request, user, username, place, reason)
    _record(request, source, user, place, succeeded=False)


def _record(
    request: HttpRequest | None, source: AttemptSource, user: User | None, place: str, *, succeeded: bool
) -> None:
    browser = sign_in_history.browser_name(request.headers.get("User-Agent", "")) if request is not None else ""
    user_id = user.pk if user is not None else 0
    sign_in_history.record(user_id, source.address, succeeded=succeeded, browser=browser, place=place)


def _log(request: HttpRequest | None, user: User | None, username: str, place: str, result: str) -> None:
    """Log an attempt. An unknown name may be a password typed into the wrong field: only its fingerprint is logged."""
    level = logging.INFO if result == "succeeded" else logging.WARNING
    account = repr(username) if user is not None else f"unknown:{_fingerprint(username)}"
    if result.startswith("throttled"):
        account = f"throttled:{_fingerprint(username)}"
    logger.log(level, "sign_in result=%s place=%s account=%s address=%s", result, place, account, _address(request))


def _fingerprint(username: str) -> str:
    key = settings.SECRET_KEY.encode()
    return hmac.new(key, username.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:12]


def _source(request: HttpRequest | None, username: str) -> AttemptSource:
    address = address_group(_address(request))
    key = account_key(username)
    browser, accounts = _browser_cookie(request) if request is not None else ("", [])
    return AttemptSource(
        account=key,
        address=address,
        browser=browser if key in accounts else "",
        knows_address=lambda: sign_in_history.is_known_address(username, address),
    )


def _address(request: HttpRequest | None) -> str:
    return request.META.get("REMOTE_ADDR", "") if request is not None else ""


def _browser_cookie(request: HttpRequest) -> tuple[str, list[str]]:
    """Return the id of the browser and the keys of its accounts; nothing for a cookie that is not the platform's."""
    try:
        browser, accounts = signing.loads(
            request.COOKIES.get(settings.BROWSER_COOKIE_NAME, ""), salt=_BROWSER_SALT, max_age=_BROWSER_SECONDS
        )
    except (signing.BadSignature, ValueError, TypeError):
        return "", []
    return browser, accounts
