"""Lists of several pages, and feeds of changes that never end."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar, get_args, get_type_hints
from urllib.parse import urlsplit

from .answers import raise_for_problem
from .generated.client import AuthenticatedClient
from .generated.models.error import Error

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Answer(Protocol[T_co]):
    """The response of a generated operation."""

    @property
    def status_code(self) -> int:
        """The HTTP status."""

    @property
    def content(self) -> bytes:
        """The body."""

    @property
    def parsed(self) -> T_co | None:
        """The body as an object."""


class Page(Protocol[T_co]):
    """A page of any list."""

    @property
    def results(self) -> Sequence[T_co]:
        """The objects on the page."""

    @property
    def next_(self) -> str | None:
        """The address of the next page, None on the last."""


class ChangesPage(Page[T_co], Protocol[T_co]):
    """A page of any feed."""

    @property
    def next_(self) -> str:
        """The address of the next page, which has later changes after the last one."""

    @property
    def has_more(self) -> bool:
        """Whether the next page can be read at once."""

    @property
    def complete(self) -> bool:
        """Whether nothing before the page is missing in the feed."""


def pages(
    operation: Callable[..., Answer[Error | Page[T]]], client: AuthenticatedClient, **parameters: Any
) -> Iterator[T]:
    """Yield the results of all pages of a list: `pages(devices_list.sync_detailed, client, limit=500)`."""
    page: Any = _first(operation, client, parameters)
    while True:
        yield from page.results
        if not page.next_:
            return
        page = read(client, type(page), page.next_)


def changes(
    operation: Callable[..., Answer[Error | ChangesPage[T]]],
    client: AuthenticatedClient,
    address: str | None = None,
    **parameters: Any,
) -> Iterator[ChangesPage[T]]:
    """Yield the pages of a feed until its end, from `address` on: the `next_` of the last page that was kept.

    Store each page's results and its `next_` in one transaction; a copy is then right after any interruption.
    """
    page: Any = read(client, _page_type(operation), address) if address else _first(operation, client, parameters)
    yield page
    while page.has_more:
        page = read(client, type(page), page.next_)
        yield page


def _first(operation: Callable[..., Any], client: AuthenticatedClient, parameters: dict[str, Any]) -> Any:
    answer = operation(client=client, **parameters)
    raise_for_problem(answer.status_code, answer.content)
    return answer.parsed


def read(client: AuthenticatedClient, page_type: Any, address: str) -> Any:
    """Return the page at an address that another page named. Only its path is used, so no other server gets the key."""
    parts = urlsplit(address)
    base = urlsplit(str(client.get_httpx_client().base_url))
    response = client.get_httpx_client().get(f"{base.scheme}://{base.netloc}{parts.path}?{parts.query}")
    raise_for_problem(response.status_code, response.content)
    return page_type.from_dict(response.json())


def _page_type(operation: Callable[..., Any]) -> Any:
    """Return the type of page that a generated operation returns, from its annotations."""
    (union,) = get_args(get_type_hints(operation)["return"])
    return next(each for each in get_args(union) if each is not Error)
