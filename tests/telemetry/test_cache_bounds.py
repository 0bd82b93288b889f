"""Memory: every cache that is filled from outside has a bound in bytes, and nothing unverified is cached."""

import functools
import gc
import hashlib
import hmac
import importlib
import inspect
import json
import os
import pkgutil
import tracemalloc
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest

from devices.domain import paths
from telemetry.services.pipeline import signature
from tenants.infrastructure.byte_bounded_cache import ByteBoundedCache, all_caches
from tests.payloads import topic, v1

APPS = ("tenants", "devices", "telemetry", "alarms")
# Caches that are bounded by the number of their entries, and the reason why that bounds their bytes.
# Caches whose keys are the project's own.
UNBOUNDED = {
    "tenants.api.entity_tags._writable": "its keys are our serializers",
    "tenants.api.views.schema.document_of_addresses": "its keys are the two address configurations",
    "tenants.services.recorded_schemas._read_record": "its keys are the two recorded schemas",
}
BOUNDED_BY_COUNT = {
    "devices.domain.paths._short_series_name": "paths of at most 128 characters",
    "devices.domain.units._conversion": "UCUM codes of at most 100 characters",
    "devices.domain.units._parsed": "UCUM codes of at most 100 characters",
    "devices.domain.units.conversion": "UCUM codes of at most 100 characters",
    "devices.services.specs.loader._by_key": "registered components, which the specifications refer to anyway",
    "devices.services.specs.loader._metric_of": "registered metrics, which the specifications refer to anyway",
    "devices.services.specs.loader._shared": "parts of registered devices, which the specifications refer to anyway",
    "telemetry.services.pipeline.form._exact_document": "one verified message of at most INGEST_MAX_PAYLOAD",
    "telemetry.services.pipeline.times._zone": "64 names of time zones, which component types have",
    "telemetry.services.storage.statements.per_schema.<locals>.compose": "one statement for each of our schemas",
}


def modules() -> Iterator[Any]:
    for app in APPS:
        package = importlib.import_module(app)
        for module in pkgutil.walk_packages(package.__path__, f"{app}."):
            if ".migrations" not in module.name:
                yield importlib.import_module(module.name)


def counted_caches() -> dict[str, Any]:
    """Every `lru_cache` of the apps, by its name: of modules, of classes, and of closures."""
    gc.unfreeze()  # what a test froze, as processes do at their start, is not among the objects
    # `isinstance` would ask a weak proxy for the class of an object that may be gone.
    wrappers = [one for one in gc.get_objects() if type(one) is functools._lru_cache_wrapper]
    return {f"{one.__module__}.{one.__qualname__}": one for one in wrappers if str(one.__module__).startswith(APPS)}


@contextmanager
def grows_by_at_most(size: int) -> Iterator[None]:
    """Allow so many bytes that this module's calls allocate and that stay; threads of other tests may do anything."""
    gc.collect()
    tracemalloc.start(32)
    try:
        yield
        gc.collect()
        ours = tracemalloc.Filter(True, __file__, all_frames=True)
        stayed = sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([ours]).traces)
    finally:
        tracemalloc.stop()
    assert stayed <= size, f"{stayed} bytes stayed"


def test_every_cache_has_a_bound() -> None:
    assert len(list(modules())) > 100
    caches = counted_caches()
    with_key = {name: cache for name, cache in caches.items() if inspect.signature(cache.__wrapped__).parameters}
    unbounded = {name for name, cache in with_key.items() if cache.cache_parameters()["maxsize"] is None}
    assert unbounded <= UNBOUNDED.keys(), "give it a bound, or the reason why its keys have one"
    unknown = with_key.keys() - BOUNDED_BY_COUNT.keys() - unbounded
    assert not unknown, "bound it in bytes (ByteBoundedCache), or add the reason why a count bounds its bytes"
    assert BOUNDED_BY_COUNT.keys() <= caches.keys(), "no longer there"


def test_every_bounded_cache_keeps_its_bound() -> None:
    list(modules())
    caches = all_caches()
    assert caches
    for cache in caches:
        assert cache.max_bytes <= 16 * 2**20
        assert cache.used_bytes <= cache.max_bytes


def size_of(key: bytes, value: bytes) -> int:
    return len(key) + len(value) + 66


def test_a_full_cache_drops_its_oldest_entries() -> None:
    cache: ByteBoundedCache[bytes, bytes] = ByteBoundedCache(100_000, size_of)
    with grows_by_at_most(150_000):
        for number in range(5_000):
            cache.put(number.to_bytes(4), os.urandom(1_000))
    assert cache.used_bytes <= 100_000
    assert 50 < len(cache) < 100
    assert cache.get((4_999).to_bytes(4)) is not None
    assert cache.get((0).to_bytes(4)) is None


def test_an_entry_of_the_size_of_the_cache_does_not_displace_all_others() -> None:
    cache: ByteBoundedCache[bytes, bytes] = ByteBoundedCache(100_000, size_of)
    cache.put(b"small", b"value")
    cache.put(b"large", bytes(20_000))
    assert cache.get(b"small") == b"value"
    assert cache.get(b"large") is None
    cache.clear()
    assert (len(cache), cache.used_bytes) == (0, 0)


def token(number: int, size: int, key: bytes = b"another key") -> bytes:
    header = json.dumps({"alg": "HS256", "kid": "1", "x": f"{number}" + "y" * size}).encode()
    return b".".join((urlsafe_b64encode(header).rstrip(b"="), b"e30", b"A" * 43))


@pytest.mark.parametrize(("read", "size"), [(signature.key_id, 40_000), (signature.key_id, 500)])
def test_the_headers_of_unverified_tokens_do_not_stay(read: Callable[[bytes], str], size: int) -> None:
    before = set(signature._key_ids._entries)
    with grows_by_at_most(100_000):
        for number in range(500):
            try:
                read(token(number, size))
            except signature.BadToken:
                assert size > 1_000
    assert signature._key_ids._entries.keys() == before


def test_a_header_is_cached_once_its_token_is_verified() -> None:
    signed = token(0, 10).rsplit(b".", 1)[0]
    digest = urlsafe_b64encode(hmac.digest(b"secret", signed, hashlib.sha256)).rstrip(b"=")
    before = len(signature._key_ids)
    assert signature.verified_payload(signed + b"." + digest, b"secret") == b"{}"
    assert len(signature._key_ids) == before + 1
    assert signature.key_id(signed + b"." + digest) == "1"


def test_long_names_of_unmapped_values_do_not_stay() -> None:
    with grows_by_at_most(200_000):
        for number in range(300):
            name = paths.series_name((f"{number}" + "x" * 50_000,))
            assert len(name) == 63


def test_refused_messages_are_freed_without_a_search_for_garbage(send: Any, register: Any) -> None:
    """A refusal that refers to the calls that raised it would keep its whole batch."""
    device = register()
    refused = [(topic(device), raw) for raw in (b"{", b"[]", b"a.b.c", b'{"a": 1, "a": 2}', v1(device, {}, secret="x"))]
    batch = [*refused, ("telemetry/a/b/c/d", b"{}"), (f"telemetry/a/{uuid4()}/c", b"{}")] * 20
    send(*batch)
    gc.collect()
    gc.disable()
    try:
        send(*batch)
        assert gc.collect() < len(batch)
    finally:
        gc.enable()
