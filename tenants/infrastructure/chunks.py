"""Chunks of an iterable, for work that must be bounded: a query, a command to a broker, a transaction."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in their order in lists of `size`, the last one shorter; nothing for no items."""
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk
