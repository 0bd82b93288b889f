"""Limits of what a key, a person, a tenant and a web process may run at the same time."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from typing import TypeVar

from django.conf import settings

from tenants.infrastructure import concurrency
from tenants.infrastructure.concurrency import Lease, Operation, Scope, Share
from tenants.infrastructure.database import current_schema

T = TypeVar("T")


def begin(operation: Operation, *, key_id: int = 0, user_id: int = 0) -> Lease:
    """Return a lease for an operation of a key or person in the current tenant. Raises LimitReached."""
    return concurrency.acquire(operation, shares(operation, key_id=key_id, user_id=user_id))


def shares(operation: Operation, *, key_id: int = 0, user_id: int = 0) -> list[Share]:
    """Return the shares that an operation counts for, by `CONCURRENCY_LIMITS`."""
    limits: Mapping[str, int] = settings.CONCURRENCY_LIMITS[operation]
    schema = current_schema()
    found = [
        Share(Scope.TENANT, schema, limits["tenant"]),
        Share(Scope.PROCESS, "web", limits["process"]),
    ]
    if key_id:
        found.insert(0, Share(Scope.KEY, f"{schema}:{key_id}", limits["key"]))
    elif user_id:
        # Of a person in all tenants together.
        found.insert(0, Share(Scope.PERSON, str(user_id), limits["key"]))
    return found


async def release_after(lease: Lease, content: AsyncGenerator[T, None]) -> AsyncIterator[T]:
    """Yield the content of a streamed response, and release the lease at its end or when the client is gone."""
    try:
        async with aclosing(content):
            async for piece in content:
                yield piece
    finally:
        lease.release()


def release_after_sync(lease: Lease, content: Iterator[T]) -> Iterator[T]:
    """Do what `release_after` does, for a synchronous server."""
    with lease:
        yield from content
