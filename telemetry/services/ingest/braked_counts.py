"""Counts of braked publishers' messages, and the ids under which these are acknowledged once the counts are stored."""

from collections.abc import Collection, Iterable
from datetime import UTC, datetime

from devices.domain.specs import DeviceSpec
from telemetry.services.limits.refusals import ExceededRate
from telemetry.services.pipeline.results import Incoming, LimitedItem
from tenants.services.limits import LimitName


class BrakedCounts:
    """Braked messages as numbers and packet ids, without topics and payloads.

    `messages` is their number, `unrouted` that of those of unregistered publishers. `epoch` names the connection on
    which they are acknowledged. `generation` is that of the admission which counted them.
    """

    __slots__ = ("_items", "epoch", "generation", "messages", "mids", "unrouted")

    def __init__(self, generation: int = 0) -> None:
        self._items: dict[tuple[int, ExceededRate], LimitedItem] = {}
        self.generation = generation
        self.epoch = 0
        self.messages = 0
        self.unrouted = 0
        self.mids: list[int] = []

    @property
    def items(self) -> list[LimitedItem]:
        """The counts of registered devices' messages that are not stored yet."""
        return list(self._items.values())

    def add_ids(self, messages: Iterable[Incoming]) -> None:
        """Add the ids of messages that were counted. Those of QoS 0 have none."""
        for message in messages:
            self.messages += 1
            self.epoch = message.epoch
            if message.qos:
                self.mids.append(message.mid)

    def count(self, spec: DeviceSpec | None, exceeded: ExceededRate, count: int) -> None:
        """Add messages of a device, None: of unregistered ones."""
        if spec is None:
            self.unrouted += count
            return
        item = self._items.get((spec.number, exceeded))
        if item is None:
            sample = Incoming("", b"", datetime.now(UTC), qos=0)
            item = LimitedItem(sample, spec, None, exceeded.limit, exceeded.device_id, 0)
            self._items[spec.number, exceeded] = item
        item.count += count

    def add(self, other: "BrakedCounts") -> None:
        """Add counts that could not be stored, with the ids that wait for them."""
        for item in other.items:
            self.count(item.spec, ExceededRate(LimitName(item.limit), item.device_id), item.count)
        self.unrouted += other.unrouted
        self.messages += other.messages
        self.mids += other.mids
        self.epoch = max(self.epoch, other.epoch)

    def discard(self, schemas: Collection[str]) -> None:
        """Remove the counts of tenants, because they are stored; their ids stay until the others are stored too."""
        if self._items:
            self._items = {key: item for key, item in self._items.items() if item.spec.tenant.schema not in schemas}
