"""Messages over HTTP that came before: anyone can have captured them, so they are charged to no device."""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import psycopg

from telemetry.services.pipeline.results import AcceptedItem, LimitedItem, MessageResult, RefusedItem
from telemetry.services.storage.tenant_writer import TenantWriter
from tenants.infrastructure.sql_errors import is_of_tenant

logger = logging.getLogger(__name__)

_MAX_REFUSED = 10_000
_DIGEST_BYTES = 16


class RepeatedMessages:
    """Finds messages that are stored, and those that this process has refused. Not shared between threads."""

    def __init__(self, writer: TenantWriter) -> None:
        self._writer = writer
        # The newest refused messages: a digest of the schema, the device and the payload, whatever the topic.
        self._refused: OrderedDict[bytes, None] = OrderedDict()

    def find(self, schema: str, items: Sequence[MessageResult]) -> dict[int, int]:
        """Return the ids (`mid`) of a tenant's messages that came before, each with that of the message in `items` that
        it repeats, 0 where that one came earlier. Raises the error of a lost database.
        """
        accepted = [item for item in items if isinstance(item, AcceptedItem)]
        repeated = dict.fromkeys(self._find_known(schema, accepted) if accepted else (), 0)
        first: dict[object, int] = {}
        for item in items:
            mid = item.incoming.mid
            if isinstance(item, AcceptedItem):
                message = item.result
                earlier = first.setdefault((item.spec.device_id, message.time, message.fingerprint), mid)
                if earlier != mid:
                    repeated.setdefault(mid, 0 if earlier in repeated else earlier)
            elif isinstance(item, RefusedItem) and self._was_refused(schema, item):
                repeated[mid] = 0
        return repeated

    def _find_known(self, schema: str, accepted: Sequence[AcceptedItem]) -> set[int]:
        try:
            return self._writer.find_known(schema, accepted)
        except psycopg.Error as error:
            if not is_of_tenant(error):
                raise
            logger.info("The messages of %s cannot be looked up: %s", schema, error)
            return set()  # storing them finds the same, and returns what they are charged

    def _was_refused(self, schema: str, item: RefusedItem) -> bool:
        number = item.spec.number if item.spec is not None else 0
        text = b"\x00".join((schema.encode(), str(number).encode(), item.incoming.payload))
        digest = hashlib.blake2b(text, digest_size=_DIGEST_BYTES).digest()
        if digest in self._refused:
            self._refused.move_to_end(digest)
            return True
        self._refused[digest] = None
        if len(self._refused) > _MAX_REFUSED:
            self._refused.popitem(last=False)
        return False


def like_first(item: MessageResult, first: MessageResult | None) -> MessageResult:
    """Return a repeated message with the limit that the first one exceeds; `first`: None where it came earlier."""
    if isinstance(first, LimitedItem | RefusedItem):
        return replace(first, incoming=item.incoming)
    return item
