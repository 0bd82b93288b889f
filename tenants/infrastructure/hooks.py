"""Hooks: the registry of what lower apps call of higher ones, and the hooks of this app.

Imports go down (telemetry → devices → tenants), calls up go through a hook: the lower app declares it here or in
`devices/hooks.py`, with its type; the higher app registers a provider in its `AppConfig.ready`, or in its `admin`
package, which Django imports only in processes that serve pages. `HOOKS` lists all of them by name.
"""

from bisect import insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from django.db.models import Model
from django.http import HttpRequest
from django.utils.functional import Promise
from django.utils.safestring import SafeString

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

Provider = TypeVar("Provider")

HOOKS: dict[str, "Hook"] = {}


class Hook(Generic[Provider]):
    """A place for providers of other apps. Iterating gives them by `order`, then by registration."""

    def __init__(self, name: str, purpose: str) -> None:
        self.name, self.purpose = name, purpose
        self.entries: list[tuple[int, Provider]] = []
        HOOKS[name] = self

    def register(self, provider: Provider, *, order: int = 0) -> Provider:
        """Add a provider and return it."""
        insort(self.entries, (order, provider), key=lambda entry: entry[0])
        return provider

    def provider(self, order: int = 0) -> Callable[[Provider], Provider]:
        """Return a decorator that registers a function as a provider."""
        return lambda provider: self.register(provider, order=order)

    def first(self) -> Provider:
        """Return the provider of a hook that has one. Raises LookupError where none is registered."""
        if not self.entries:
            raise LookupError(f"No app provides {self.name}: {self.purpose}")
        return self.entries[0][1]

    def __iter__(self) -> Iterator[Provider]:
        return iter([provider for _order, provider in self.entries])


@dataclass(frozen=True, slots=True)
class NavigationGroup:
    """A heading of an admin's sidebar and its models, each with the name of its icon (Material Symbols)."""

    title: str | Promise
    models: tuple[tuple[type[Model], str], ...]


new_tenant: Hook[Callable[[], None]] = Hook("new_tenant", "fills the schema of a new tenant; runs inside it")
tenant_changed: Hook[Callable[[str], None]] = Hook(
    "tenant_changed", "receives the schema of a tenant whose state or limits changed, after the commit"
)
session_ended: Hook[Callable[[str], None]] = Hook("session_ended", "receives the key of a session that was deleted")
tenant_state_changed: Hook[Callable[[str], None]] = Hook(
    "tenant_state_changed", "receives the schema of a tenant that is suspended or resumed, in the transaction"
)
metric_collectors: Hook[Callable[[], "Iterable[Metric]"]] = Hook(
    "metric_collectors", "returns more metrics for /metrics; must not raise"
)
device_release: Hook[Callable[[str, int, str], object]] = Hook(
    "device_release",
    "releases the device with this UUID for the user with this id and label; runs in its tenant's schema",
)
uuid_confirmation: Hook[Callable[[str, str, int, str], object]] = Hook(
    "uuid_confirmation",
    "gives the route of this UUID to the tenant with this schema, for the user with this id and label",
)
uuid_release: Hook[Callable[[str, int, str], object]] = Hook(
    "uuid_release", "removes the route of this UUID, for the user with this id and label"
)
unrouted_replay: Hook[Callable[[], object]] = Hook("unrouted_replay", "queues the replay of unrouted messages")
console_panels: Hook[Callable[[HttpRequest], SafeString]] = Hook(
    "console_panels", "renders a panel of the console's first page"
)
console_navigation: Hook[NavigationGroup] = Hook("console_navigation", "a group of the console's sidebar")
quota_check: Hook[Callable[[str, str, int], None]] = Hook(
    "quota_check",
    "raises QuotaExceeded where the tenant with this schema may not have so many more objects of the quota's name",
)
counted_models: Hook[type[Model]] = Hook("counted_models", "a model whose rows count towards a tenant's quota")
