"""Rounds by tenant between reading and validating: deficit round robin over a queue for each tenant. No I/O.

A batch takes from all tenants in turn, each a part of the same cost, and within a tenant from its devices in turn, so
that a publisher with many messages, or large ones, waits behind its own. Each device's messages stay in their order.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence

from telemetry.services.limits.refusals import UNKNOWN
from telemetry.services.pipeline.results import Incoming

# The cost of a message beside its bytes: to validate and store an average one takes as long as to parse so many bytes.
MESSAGE_COST = 1000
# The cost that each tenant may use in one round: a few average messages.
_QUANTUM = 4 * MESSAGE_COST
# All unregistered publishers together have one queue with a smaller part.
_UNKNOWN_QUANTUM = MESSAGE_COST
# The cost of one batch: more would delay the messages that arrive meanwhile.
MAX_BATCH_COST = 1_500_000
_UNBOUNDED = 1 << 60


def cost_of(messages: Sequence[Incoming]) -> int:
    """Return the cost of messages in bytes."""
    return MESSAGE_COST * len(messages) + sum([len(message.payload) + len(message.topic) for message in messages])


class _TenantQueue:
    """A tenant's messages by device, in the order of the devices' turns.

    Most devices have one message, which needs no queue of its own.
    """

    __slots__ = ("deficit", "devices", "quantum")

    def __init__(self, quantum: int) -> None:
        self.quantum, self.deficit = quantum, 0
        self.devices: OrderedDict[int, Incoming | deque[Incoming]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self.devices)

    def add(self, device: int, message: Incoming) -> None:
        waiting = self.devices.get(device)
        if waiting is None:
            self.devices[device] = message
        elif isinstance(waiting, deque):
            waiting.append(message)
        else:
            self.devices[device] = deque((waiting, message))

    def take(self, batch: list[Incoming], size: int, left: int) -> tuple[int, bool]:
        """Move messages within the deficit to the batch, a device's after another's; return their cost, and whether
        the next message is beyond the deficit.
        """
        devices, deficit, used = self.devices, self.deficit, 0
        while devices and len(batch) < size and used < left:
            device, waiting = devices.popitem(last=False)
            message = waiting[0] if isinstance(waiting, deque) else waiting
            cost = MESSAGE_COST + len(message.payload) + len(message.topic)
            if used + cost > deficit:
                devices[device] = waiting
                devices.move_to_end(device, last=False)
                self.deficit = deficit - used
                return used, True
            batch.append(message)
            used += cost
            if isinstance(waiting, deque):
                waiting.popleft()
                if waiting:
                    devices[device] = waiting
        self.deficit = deficit - used
        return used, False

    def remove(self, device: int) -> list[Incoming]:
        waiting = self.devices.pop(device, None)
        if waiting is None:
            return []
        return list(waiting) if isinstance(waiting, deque) else [waiting]

    def remove_all(self) -> Iterator[Incoming]:
        for waiting in self.devices.values():
            if isinstance(waiting, deque):
                yield from waiting
            else:
                yield waiting
        self.devices.clear()


class TenantQueues:
    """Messages that were read and are in no batch yet, by schema.

    `count` is their number, and `cost` their cost in bytes.
    """

    def __init__(self) -> None:
        # In the order of their turns. Only tenants with messages have a queue.
        self._queues: OrderedDict[str, _TenantQueue] = OrderedDict()
        self.count = 0
        self.cost = 0

    def add(self, schema: str, device: int, message: Incoming) -> None:
        """Append a message to the queue of its tenant and device; `UNKNOWN` is that of unregistered publishers.

        `device` is a number that is the same for all messages of a device.
        """
        queue = self._queues.get(schema)
        if queue is None:
            queue = self._queues[schema] = _TenantQueue(_QUANTUM if schema != UNKNOWN else _UNKNOWN_QUANTUM)
        queue.add(device, message)
        self.count += 1
        self.cost += MESSAGE_COST + len(message.payload) + len(message.topic)

    def take(self, size: int, max_cost: int = MAX_BATCH_COST) -> list[Incoming]:
        """Remove and return up to `size` messages in rounds by tenant, about `max_cost` at most, and at least one."""
        batch: list[Incoming] = []
        left = max_cost
        while self._queues and len(batch) < size and left > 0:
            take = self._take_alone if len(self._queues) == 1 else self._take_turn
            left -= take(next(iter(self._queues)), batch, size, left)
        self.count -= len(batch)
        self.cost -= max_cost - left
        return batch

    def remove(self, schema: str, device: int) -> list[Incoming]:
        """Remove and return the messages of a device, in their order."""
        queue = self._queues.get(schema)
        if queue is None:
            return []
        messages = queue.remove(device)
        if not queue:
            del self._queues[schema]
        self.count -= len(messages)
        self.cost -= cost_of(messages)
        return messages

    def remove_all(self) -> list[Incoming]:
        """Remove and return all messages, those of each device in their order."""
        messages = [message for queue in self._queues.values() for message in queue.remove_all()]
        self.clear()
        return messages

    def clear(self) -> None:
        """Drop all messages."""
        self._queues.clear()
        self.count = self.cost = 0

    def _take_alone(self, schema: str, batch: list[Incoming], size: int, left: int) -> int:
        """Move the rest of the batch from the only tenant that waits; return its cost."""
        queue = self._queues[schema]
        queue.deficit = _UNBOUNDED
        used, _ = queue.take(batch, size, left)
        queue.deficit = 0
        if not queue:
            del self._queues[schema]
        return used

    def _take_turn(self, schema: str, batch: list[Incoming], size: int, left: int) -> int:
        """Move the tenant's part of a round to the batch; return its cost."""
        queue = self._queues[schema]
        queue.deficit += queue.quantum
        used, is_beyond = queue.take(batch, size, left)
        if not queue:
            del self._queues[schema]
        elif is_beyond:
            self._queues.move_to_end(schema)
        else:  # the batch is full: its turn goes on in the next one
            queue.deficit -= queue.quantum
        return used
