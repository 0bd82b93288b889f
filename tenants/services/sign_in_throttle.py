"""Limits on attempts to sign in, by address and by account, applied before a password is hashed.

An attempt is counted before it is checked, so that parallel attempts cannot overtake their count; a success is
subtracted. A browser that signed in to the account before, and an address that did, are limited by themselves alone:
wrong passwords from elsewhere shut neither out, and neighbours at a shared address do not either.
"""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

from tenants.infrastructure.throttling import RedisCounter, Window

# Attempts on one account from one address or browser.
PAIR_ATTEMPTS, PAIR_SECONDS = 10, 60
# Failed attempts of one address on all accounts; people behind one router share them.
ADDRESS_ATTEMPTS, ADDRESS_SECONDS = 100, 60
# Failed attempts on one account from all addresses that are unknown to it.
ACCOUNT_ATTEMPTS, ACCOUNT_SECONDS = 100, 600

# Successful sign-ins to one account: each costs a hash, and its owner may be the attacker.
SUCCESSES, SUCCESS_SECONDS = 60, 60

_pair = RedisCounter(PAIR_SECONDS)
_success = RedisCounter(SUCCESS_SECONDS)
_address = RedisCounter(ADDRESS_SECONDS)
_account = RedisCounter(ACCOUNT_SECONDS)


class TooManyAttempts(Exception):
    """The attempt is rejected without a check of the password."""

    status = 429

    def __init__(self, limit: str, wait: int) -> None:
        super().__init__(limit, wait)
        self.limit = limit  # address, account, pair or success
        self.wait = max(1, wait)  # seconds


class AttemptSource(NamedTuple):
    """The origin of an attempt."""

    account: str  # the key of the account's name
    address: str  # the counted form of the client's address
    browser: str = ""  # the id of a browser that signed in to this account before
    # Returns whether the account was signed in to from this address before; called only beyond a limit.
    knows_address: Callable[[], bool] = lambda: False


def account_key(username: str) -> str:
    """Return the key under which an account's name is counted: bounded, and not the name itself."""
    return hashlib.blake2b(username.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def count_attempt(source: AttemptSource) -> None:
    """Count an attempt. Raises TooManyAttempts where it is beyond a limit; it then counts for no further limit."""
    if not source.browser:
        # Read first, so that invented names of a blocked address make no keys.
        _check(source, "address", _address.read(_address_key(source)), ADDRESS_ATTEMPTS)
    successes = _success.read(_success_key(source))
    if successes.events >= SUCCESSES:
        raise TooManyAttempts("success", successes.seconds_left)
    pair = _pair.add(_pair_key(source))
    if pair.events > PAIR_ATTEMPTS:
        raise TooManyAttempts("pair", pair.seconds_left)
    if not source.browser:
        _check(source, "address", _address.add(_address_key(source)), ADDRESS_ATTEMPTS)
        _check(source, "account", _account.add(_account_key(source)), ACCOUNT_ATTEMPTS)


def uncount(source: AttemptSource) -> None:
    """Subtract a counted attempt that failed for another reason than its password."""
    _pair.add(_pair_key(source), -1)
    if not source.browser:
        _address.add(_address_key(source), -1)
        _account.add(_account_key(source), -1)


def count_success(source: AttemptSource) -> None:
    """Count a success: the attempt is subtracted from the limits of failures."""
    uncount(source)
    _success.add(_success_key(source))


def _check(source: AttemptSource, limit: str, counted: Window, most: int) -> None:
    if counted.events > most and not source.knows_address():
        raise TooManyAttempts(limit, counted.seconds_left)


def _pair_key(source: AttemptSource) -> str:
    return f"public:signin:pair:{source.account}:{source.browser or source.address}"


def _address_key(source: AttemptSource) -> str:
    return f"public:signin:address:{source.address}"


def _account_key(source: AttemptSource) -> str:
    return f"public:signin:account:{source.account}"


def _success_key(source: AttemptSource) -> str:
    return f"public:signin:success:{source.account}"
