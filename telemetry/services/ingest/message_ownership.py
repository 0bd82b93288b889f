"""A message whose UUID no tenant has proven: whether a registration's key signed it, or why it is refused."""

import logging
from functools import partial

from devices.domain.specs import DeviceSpec
from telemetry.services.lookups.keyring import Keyring, KeyUnavailable
from telemetry.services.pipeline import form
from telemetry.services.pipeline.results import Incoming, Refusal, Topic, TopicKind
from telemetry.services.pipeline.signature import verify
from telemetry.services.pipeline.validation import check_routing, names_other_tenant

logger = logging.getLogger(__name__)


class UnprovenMessage:
    """A message whose UUID several tenants may have registered, each with a secret of its own."""

    def __init__(self, incoming: Incoming, topic: Topic, max_payload: int, keyring: Keyring) -> None:
        self._incoming, self._topic, self._max_payload, self._keyring = incoming, topic, max_payload, keyring
        self._is_key_unavailable = False

    def is_signed_for(self, spec: DeviceSpec) -> bool:
        """Return whether a key of this tenant's device signed the message, on a topic of the tenant."""
        incoming, topic = self._incoming, self._topic
        if topic.kind is TopicKind.WILL or (topic.segment and names_other_tenant(topic.segment, spec)):
            return False
        keys = partial(self._keyring.get, spec.tenant.schema, topic.uuid)
        try:
            form.check_size(incoming.payload, self._max_payload, spec.tenant.limits)
            check_routing(spec)
            verify(incoming.payload, spec, keys, incoming.received_at)
        except Refusal:
            return False
        except KeyUnavailable:
            self._is_key_unavailable = True
            return False
        except Exception:  # one unreadable message must not stop all others
            logger.exception("A message on %s could not be verified", incoming.topic)
            return False
        return True

    def refusal(self, *, is_named: bool) -> Refusal:
        """Return why the message is refused; `is_named`: the topic names the tenant of a registration."""
        uuid = self._topic.uuid
        if self._is_key_unavailable:
            return Refusal("key_unavailable", f"Deferred until Vault answers: the device {uuid} is not proven yet.")
        reason = "bad_signature" if is_named else "unknown_device"
        return Refusal(
            reason,
            f"The device {uuid} is registered and not proven yet: its first message must have a valid signature, on "
            "the topic of its tenant.",
        )
