"""Guesses of passwords: in parallel, under forged addresses, at one account, and by the time of an answer."""

import statistics
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from uuid import uuid4

from django.conf import settings
from django.contrib.auth.hashers import get_hashers, get_hashers_by_algorithm

from tenants import middleware
from tenants.infrastructure import password_hashing
from tenants.infrastructure.password_hashing import BoundedArgon2Hasher
from tenants.models import User
from tenants.services import sign_in
from tenants.services.sign_in_throttle import ACCOUNT_ATTEMPTS, PAIR_ATTEMPTS
from tests.attacks.arena import Arena
from tests.attacks.attack import Measurement, attack, brake

PASSWORD = "correct horse battery"
_PATH = "/api/v1/tenants/"
_PROXY = {"TRUSTED_PROXIES": "127.0.0.1"}
_PARALLEL = 16


class FullCost(BoundedArgon2Hasher):
    """The cost of the product: tests of this process lower it."""

    time_cost, memory_cost = 2, 19 * 1024


@brake("passwords hashed at once")
def with_unbounded_hashing() -> None:
    """Hash as before the brake: PBKDF2 at Django's cost, any number at once, each with a pooled connection."""

    @contextmanager
    def any_slot(*_: object) -> Iterator[None]:
        yield

    password_hashing.HashSlots.slot = any_slot  # type: ignore[method-assign,assignment]
    settings.PASSWORD_HASHERS = list(reversed(settings.PASSWORD_HASHERS))
    get_hashers.cache_clear()  # type: ignore[attr-defined]
    get_hashers_by_algorithm.cache_clear()  # type: ignore[attr-defined]
    sign_in.count_attempt = lambda _source: None  # type: ignore[assignment]


@brake("attempts to sign in")
def without_counts() -> None:
    """Check every password."""
    sign_in.count_attempt = lambda _source: None  # type: ignore[assignment]


@brake("addresses of trusted proxies")
def with_any_address() -> None:
    """Take the client's address from the left of the header, which its sender writes."""
    middleware.client_address = lambda peer, forwarded_for, trusted: forwarded_for.partition(",")[0] or peer


@brake("known addresses")
def without_known_addresses() -> None:
    """Forget from where an account was signed in to."""
    sign_in.sign_in_history.is_known_address = lambda *_: False


@brake("hash of an unknown account")
def without_dummy_hash() -> None:
    """Answer at once for an account that does not exist."""
    sign_in.make_password = lambda *_: ""


@attack("parallel-guesses", "16 parallel guesses of passwords", brake="passwords hashed at once", short=True)
def parallel_guesses(arena: Arena) -> Measurement:
    """Guess in 16 threads at made-up accounts, while a neighbour reads its API."""
    _, port = arena.serve()
    probe = arena.api_probe(port)
    quiet = arena.quiet(probe, 2.0)
    statuses: Counter[int] = Counter()
    stop = threading.Event()

    def guess() -> None:
        while not stop.is_set():
            statuses[request(port, uuid4().hex, "wrong")] += 1

    threads = [threading.Thread(target=guess, daemon=True) for _ in range(_PARALLEL)]
    probe = arena.api_probe(port)
    for thread in threads:
        thread.start()
    attacked = arena.quiet(probe, max(arena.seconds, 4.0))
    stop.set()
    for thread in threads:
        thread.join(60)
    figures = quiet.figures("quiet") | attacked.figures("attacked")
    measurement = Measurement(figures | {f"guesses_{status}": count for status, count in statuses.items()})
    measurement.bound("neighbour's p95 in seconds", attacked.p95, max(0.5, 3 * quiet.p95), timed=True)
    measurement.bound("neighbour's lost requests", attacked.lost, 0)
    return measurement


@attack("guesses", "one program guesses an account's password", brake="attempts to sign in")
def password_guesses(arena: Arena) -> Measurement:
    """Guess four times as often as allowed; another account at the same address signs in meanwhile."""
    _, port = arena.serve()
    target, neighbour = account(), account()
    statuses = Counter(request(port, target, f"guess {number}") for number in range(4 * PAIR_ATTEMPTS))
    measurement = Measurement({f"guesses_{status}": count for status, count in statuses.items()})
    # The minute may end once meanwhile.
    measurement.bound("checked guesses", statuses[401], 2 * PAIR_ATTEMPTS)
    measurement.bound("refused sign-ins of the neighbour", int(request(port, neighbour, PASSWORD) == 429), 0)
    return measurement


@attack("forged-addresses", "guesses under forged addresses", brake="addresses of trusted proxies", short=True)
def forged_addresses(arena: Arena) -> Measurement:
    """Guess with another X-Forwarded-For in each request, to which the trusted proxy appends the true address."""
    _, port = arena.serve(env=_PROXY)
    target = account()
    statuses = Counter(
        request(port, target, "wrong", f"10.{number}.0.1, 203.0.113.9") for number in range(4 * PAIR_ATTEMPTS)
    )
    measurement = Measurement({f"guesses_{status}": count for status, count in statuses.items()})
    measurement.bound("checked guesses", statuses[401], 2 * PAIR_ATTEMPTS)
    return measurement


@attack("locked-out-owner", "many addresses guess, to lock an owner out", brake="known addresses")
def locked_out_owner(arena: Arena) -> Measurement:
    """Exhaust the limit of an account from many addresses; its owner signs in from where it did before."""
    _, port = arena.serve(env=_PROXY)
    owner = account()
    request(port, owner, PASSWORD, "203.0.113.9")
    statuses: Counter[int] = Counter()
    for number in range(2 * ACCOUNT_ATTEMPTS + 10):
        statuses[request(port, owner, "wrong", f"198.51.{number // 250}.{number % 250}")] += 1
    refused = [request(port, owner, PASSWORD, "203.0.113.9") for _ in range(3)].count(429)
    measurement = Measurement({f"guesses_{status}": count for status, count in statuses.items()})
    measurement.bound("refused sign-ins of the owner", refused, 0)
    measurement.bound("checked guesses", statuses[401], 2 * ACCOUNT_ATTEMPTS)
    return measurement


@attack("account-names", "times of answers tell which accounts exist", brake="hash of an unknown account")
def account_names(arena: Arena) -> Measurement:
    """Compare the times of wrong passwords of an account and of made-up names, each from an address of its own."""
    _, port = arena.serve(env=_PROXY)
    known = account()
    times: dict[bool, list[float]] = {True: [], False: []}
    for number in range(60):
        exists = bool(number % 2)
        began = time.monotonic()
        request(port, known if exists else uuid4().hex, "wrong", f"198.51.100.{number}")
        times[exists].append(time.monotonic() - began)
    medians = {exists: statistics.median(seconds) for exists, seconds in times.items()}
    figures = {"known_ms": round(1000 * medians[True], 1), "unknown_ms": round(1000 * medians[False], 1)}
    measurement = Measurement(figures)
    measurement.bound("known account's time by an unknown one's", medians[True] / medians[False], 1.5, timed=True)
    return measurement


def account() -> str:
    """Create an account without a role, with a hash at full cost; return its name."""
    name = f"account-{uuid4().hex[:12]}"
    User.objects.create(username=name, password=FullCost().encode(PASSWORD, "a salt for the attacks"))
    return name


def request(port: int, username: str, password: str, forwarded_for: str = "") -> int:
    """Return the status of a request with HTTP Basic: 403 for a right password, 401 for one that was checked."""
    token = b64encode(f"{username}:{password}".encode()).decode()
    headers = {"Authorization": f"Basic {token}"}
    if forwarded_for:
        headers["X-Forwarded-For"] = forwarded_for
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", _PATH, headers=headers)
        response = connection.getresponse()
        response.read()
        return response.status
    except OSError:
        return 0
    finally:
        connection.close()
