"""Messages that devices send over HTTP: the listener's pipeline in a thread of the web process.

The thread owns the pipeline, and works on one request after the other: a request is one device's messages, which are
stored in one transaction. Nothing waits here after the answer: the device keeps its messages until they are answered.
"""

import atexit
import itertools
import logging
import queue
import threading
import time
from collections.abc import Iterable, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from uuid import UUID

from django.conf import settings
from django.db import connection

from devices.services.presence import activity
from telemetry.models import Reason
from telemetry.services.lookups.keyring import KeyUnavailable
from telemetry.services.pipeline.results import (
    AcceptedItem,
    Incoming,
    LimitedItem,
    MessageResult,
    Refusal,
    RefusedItem,
    TenantResult,
)
from telemetry.services.pipeline.signature import verify
from telemetry.services.storage.tenant_writer import LOCK_TIMEOUT_MS
from tenants.infrastructure.database import use_own_connection
from tenants.infrastructure.retry import DATABASE_LOST, first_line

from .batch_pipeline import BatchPipeline, build_pipeline
from .batches import PreparedBatch

logger = logging.getLogger(__name__)

# Refusals that anyone can cause who knows a device's UUID: over MQTT the broker's accounts prevent it. They brake the
# address that sent them, and not the device. So do messages that came before, which anyone can have captured.
UNPROVEN = frozenset(
    {
        Reason.MALFORMED.value,
        Reason.TOO_LARGE.value,
        Reason.UNKNOWN_DEVICE.value,
        Reason.INACTIVE_DEVICE.value,
        Reason.WRONG_TENANT.value,
        Reason.UNKNOWN_CHILD.value,
        Reason.BAD_SIGNATURE.value,
        Reason.DOWNGRADED_SIGNATURE.value,
    }
)
# What these say is only of the message itself; the others also of the device, and need a valid signature.
_OF_THE_MESSAGE = frozenset({Reason.MALFORMED.value, Reason.TOO_LARGE.value})
_NOT_SIGNED = "The message does not have a valid signature of the device."
# The limit of an address's messages without a valid signature, beyond which they are not stored.
ADDRESS_LIMIT = "address_failures"
_ADDRESS_SECONDS = 60.0
_TICK_SECONDS = 0.5
# Requests beyond this number, and those that wait longer, are answered that the server is busy.
_MOST_WAITING = 200
_WAIT_SECONDS = 10.0
# A blocked tenant is not tried again for so long: its attempts hold up the requests of others.
_BLOCKED_SECONDS = 0.25
_CLOSE_SECONDS = 3.0


class MessageState(StrEnum):
    """What became of a message."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    QUARANTINED = "quarantined"
    LIMITED = "limited"


@dataclass(frozen=True, slots=True)
class MessageReceipt:
    """The answer for one message: `reason` and `detail` of a quarantined one, `limit` and seconds of a limited one.

    A stored one has a `detail` where some of its values were refused or left out. `is_proven`: its sender has the
    device's key, or was the first to send it.
    """

    state: MessageState
    reason: str = ""
    detail: str = ""
    limit: str = ""
    retry_after: float = 0.0
    is_proven: bool = False

    @property
    def is_unproven(self) -> bool:
        """Whether its sender may not even know a message of the device."""
        return self.reason in UNPROVEN or self.limit == ADDRESS_LIMIT


class UnknownDevice(Exception):
    """The tenant has no device with the UUID."""


class IngestUnavailable(Exception):
    """Nothing was answered for; the same request must be sent again."""


class TenantBlocked(IngestUnavailable):
    """The tenant's tables are locked or faulty."""


class KeysUnavailable(IngestUnavailable):
    """The device's key is not in memory, and Vault does not answer."""


class IngestBusy(IngestUnavailable):
    """Too many requests wait."""


@dataclass(slots=True)
class _Request:
    schema: str
    uuid: UUID
    messages: list[Incoming]
    most_unproven: int | None
    answer: "Future[list[MessageReceipt]]"


class HttpIngest:
    """The thread of this process, started by the first request. Thread-safe."""

    def __init__(self) -> None:
        self._requests: queue.Queue[_Request] = queue.Queue(_MOST_WAITING)
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._blocked_until: dict[str, float] = {}

    def process(
        self, schema: str, uuid: UUID, messages: Sequence[tuple[str, bytes]], most_unproven: int | None = None
    ) -> list[MessageReceipt]:
        """Store a device's messages (topic and payload), and return their receipts in the same order.

        Of those that anyone can have made up, only `most_unproven` are quarantined; the others are limited.
        Raises UnknownDevice, IngestUnavailable, and the errors of a lost database. Some of the messages may be stored
        then, and are duplicates when they are sent again.
        """
        now = datetime.now(UTC)
        incoming = [Incoming(topic, payload, now, next(self._numbers)) for topic, payload in messages]
        request = _Request(schema, uuid, incoming, most_unproven, Future())
        self._submit(request)
        try:
            return request.answer.result(_WAIT_SECONDS)
        except TimeoutError as error:
            request.answer.cancel()
            raise IngestBusy from error

    def close(self) -> None:
        """End the thread after the requests that wait."""
        self._closing.set()
        thread = self._thread
        if thread is not None:
            thread.join(_CLOSE_SECONDS)

    def _submit(self, request: _Request) -> None:
        with self._lock:
            if self._closing.is_set():
                raise IngestBusy
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="http-ingest", daemon=True)
                self._thread.start()
                atexit.register(self.close)
        try:
            self._requests.put_nowait(request)
        except queue.Full as error:
            raise IngestBusy from error

    # --- in the thread --------------------------------------------------------------------------------------------

    def _work(self) -> None:
        use_own_connection(LOCK_TIMEOUT_MS)
        try:
            pipeline = build_pipeline(role=settings.VAULT_ROLE, not_charged=UNPROVEN, charge_repeats=False)
        except Exception as error:  # the next request starts another thread
            logger.exception("The thread for messages over HTTP cannot start")
            self._refuse_waiting(error)
            return
        try:
            while not (self._closing.is_set() and self._requests.empty()):
                self._answer_next(pipeline)
                self._tick(pipeline)
        finally:
            self._tick(pipeline, last=True)
            pipeline.close()
            connection.close()

    def _refuse_waiting(self, error: Exception) -> None:
        while not self._requests.empty():
            request = self._requests.get()
            if request.answer.set_running_or_notify_cancel():
                request.answer.set_exception(error)

    def _answer_next(self, pipeline: BatchPipeline) -> None:
        try:
            request = self._requests.get(timeout=_TICK_SECONDS)
        except queue.Empty:
            return
        if not request.answer.set_running_or_notify_cancel():
            return  # the client was answered already
        try:
            receipts = self._process(pipeline, request)
        except (UnknownDevice, IngestUnavailable) as error:
            request.answer.set_exception(error)
        except DATABASE_LOST as error:
            _abandon(pipeline)
            request.answer.set_exception(error)
        except Exception as error:  # the thread serves the next request
            logger.exception("Messages of the device %s could not be processed", request.uuid)
            _abandon(pipeline)
            request.answer.set_exception(error)
        else:
            request.answer.set_result(receipts)

    def _tick(self, pipeline: BatchPipeline, *, last: bool = False) -> None:
        try:
            pipeline.tick(last=last)
        except DATABASE_LOST as error:
            logger.warning("PostgreSQL is unavailable: %s", first_line(error))
            _abandon(pipeline)

    def _process(self, pipeline: BatchPipeline, request: _Request) -> list[MessageReceipt]:
        if self._blocked_until.get(request.schema, 0.0) > time.monotonic():
            raise TenantBlocked
        try:
            _check_device(pipeline, request)
            receipts = _store(pipeline, request)
        except TenantBlocked:
            self._blocked_until[request.schema] = time.monotonic() + _BLOCKED_SECONDS
            activity.suspend_timeouts([request.schema])
            raise
        self._blocked_until.pop(request.schema, None)
        return receipts


def _abandon(pipeline: BatchPipeline) -> None:
    pipeline.abandon()
    connection.close()


def _check_device(pipeline: BatchPipeline, request: _Request) -> None:
    """Raise UnknownDevice or TenantBlocked for a device that is not registered in the tenant."""
    [route] = pipeline.router.routes([request.uuid])
    if route.spec is not None:
        is_known = route.spec.tenant.schema == request.schema
    elif route.locked_schema:
        if route.locked_schema == request.schema:
            raise TenantBlocked
        is_known = False
    else:
        # Its first message proves to which tenant it belongs.
        candidates = pipeline.router.candidates_of(request.uuid)
        is_known = any(spec.tenant.schema == request.schema for spec in candidates)
    if not is_known:
        raise UnknownDevice


def _store(pipeline: BatchPipeline, request: _Request) -> list[MessageReceipt]:
    batch = pipeline.prepare_direct(request.messages)
    if batch.locked:
        pipeline.discard(batch)
        raise TenantBlocked
    if _lacks_keys(batch):
        # A deferred message waits for the listener that deferred it; this sender can wait itself.
        pipeline.deferred_schemas.clear()
        pipeline.discard(batch)
        raise KeysUnavailable
    receipts = _braked_receipts(batch, request.uuid) | _drop_unproven(batch, request.most_unproven)
    results, total = pipeline.store_prepared(batch, LOCK_TIMEOUT_MS)
    safe = {message.mid for message in total.to_acknowledge} | receipts.keys()
    if any(message.mid not in safe for message in request.messages):
        raise TenantBlocked
    for result in [TenantResult("", quarantined=batch.unrouted), *results]:
        receipts |= _receipts_of(pipeline, result, batch.repeated)
    return [receipts[message.mid] for message in request.messages]


def _lacks_keys(batch: PreparedBatch) -> bool:
    items = itertools.chain(batch.unrouted, *batch.groups.values())
    return any(isinstance(item, RefusedItem) and item.result.reason == Reason.KEY_UNAVAILABLE for item in items)


def _braked_receipts(batch: PreparedBatch, uuid: UUID) -> dict[int, MessageReceipt]:
    """Return the receipts of messages that were only counted, before the counts are stored."""
    limit = next((item.limit for item in batch.counts.items if item.spec.uuid == uuid), "")
    receipt = MessageReceipt(MessageState.LIMITED, limit=limit, retry_after=settings.LIMIT_BURST_SECONDS / 2)
    return dict.fromkeys(batch.counts.mids, receipt)


def _drop_unproven(batch: PreparedBatch, most: int | None) -> dict[int, MessageReceipt]:
    """Remove what exceeds `most` of the messages that anyone can have made up, and return their receipts."""
    if most is None:
        return {}
    items: Iterable[MessageResult] = itertools.chain(*batch.groups.values(), batch.unrouted)
    refused = [item for item in items if _is_made_up(item)]
    dropped = {item.incoming.mid for item in refused[most:]}
    if not dropped:
        return {}
    batch.unrouted = [item for item in batch.unrouted if item.incoming.mid not in dropped]
    for schema, group in batch.groups.items():
        batch.groups[schema] = [item for item in group if item.incoming.mid not in dropped]
    receipt = MessageReceipt(MessageState.LIMITED, limit=ADDRESS_LIMIT, retry_after=_ADDRESS_SECONDS)
    return dict.fromkeys(dropped, receipt)


def _is_made_up(item: MessageResult) -> bool:
    return isinstance(item, RefusedItem) and item.result.contact is None and item.result.reason in UNPROVEN


def _receipts_of(pipeline: BatchPipeline, result: TenantResult, repeated: Set[int]) -> dict[int, MessageReceipt]:
    # A message that PostgreSQL rejects is only in `items`; the others replace this.
    detail = "PostgreSQL cannot store the message."
    unstorable = MessageReceipt(MessageState.QUARANTINED, Reason.MALFORMED, detail)
    receipts = {item.incoming.mid: unstorable for item in result.items}
    for state, items in ((MessageState.STORED, result.stored), (MessageState.DUPLICATE, result.duplicates)):
        receipts |= {item.incoming.mid: MessageReceipt(state, detail=_details(item)) for item in items}
    receipts |= {item.incoming.mid: _quarantined(pipeline, item) for item in result.quarantined}
    receipts |= {item.incoming.mid: _limited(item) for item in result.limited if item.result is not None}
    verified = [item for item in result.quarantined if item.result.contact is not None]
    proven: Iterable[MessageResult] = itertools.chain(result.stored, verified, result.limited)
    for item in proven:
        if (mid := item.incoming.mid) in receipts and mid not in repeated:
            receipts[mid] = replace(receipts[mid], is_proven=True)
    return receipts


def _details(item: AcceptedItem) -> str:
    details = [value.detail for value in item.result.refused]
    if item.result.omitted:
        details.append(f"Values were left out ({item.result.omitted}): the warnings of the device name the bounds.")
    return " ".join(details)


def _quarantined(pipeline: BatchPipeline, item: RefusedItem) -> MessageReceipt:
    """Return the receipt of a refused message. What it says of the device is for senders with the device's key."""
    refusal = item.result
    if refusal.contact is not None or refusal.reason not in UNPROVEN - _OF_THE_MESSAGE or _is_signed(pipeline, item):
        return MessageReceipt(MessageState.QUARANTINED, refusal.reason, refusal.detail)
    return MessageReceipt(MessageState.QUARANTINED, Reason.BAD_SIGNATURE, _NOT_SIGNED)


def _is_signed(pipeline: BatchPipeline, item: RefusedItem) -> bool:
    """Return whether a key of the device signed the message, in either version."""
    signer = item.gateway or item.spec
    if signer is None:
        return False
    keys = partial(pipeline.keyring.get, signer.tenant.schema, signer.uuid)
    try:
        verify(item.incoming.payload, replace(signer, min_signature_version=1), keys, item.incoming.received_at)
    except (Refusal, KeyUnavailable):
        return False
    return True


def _limited(item: LimitedItem) -> MessageReceipt:
    return MessageReceipt(MessageState.LIMITED, limit=item.limit, retry_after=item.retry_after)


http_ingest = HttpIngest()
