"""What stored messages say of presence."""

from devices.services.presence.activity import PresenceEvent
from telemetry.services.pipeline.form import Kind
from telemetry.services.pipeline.results import AcceptedItem, LimitedItem, Outcome

_TELEMETRY = Kind.TELEMETRY  # looked up once: Python 3.11 takes several steps
_SIGNS = {Kind.TELEMETRY: "telemetry", Kind.BIRTH: "birth", Kind.WILL: "will"}


def signs_of(outcome: Outcome) -> list[PresenceEvent]:
    """Births, wills, and of each device's live telemetry the newest; late telemetry says nothing.

    A message that is over a limit was verified, and is a sign of life like any other.
    """
    newest: dict[int, AcceptedItem | LimitedItem] = {}
    signs = []
    for items in (outcome.duplicates, outcome.stored, outcome.limited):
        for item in items:
            message = item.verdict
            if message.late:
                continue
            if message.topic.kind is not _TELEMETRY:
                signs.append(_sign(item))
                continue
            known = newest.get(item.spec.device_id)
            if known is None or known.incoming.received_at <= item.incoming.received_at:
                newest[item.spec.device_id] = item
    return signs + [_sign(item) for item in newest.values()]


def _sign(item: AcceptedItem | LimitedItem) -> PresenceEvent:
    message, spec = item.verdict, item.spec
    return PresenceEvent(
        _SIGNS[message.topic.kind],  # type: ignore[arg-type]  # the literals of PresenceEvent.kind
        spec.tenant.schema,
        spec.device_id,
        message.topic.uuid,
        item.incoming.received_at,
        spec.timeout_seconds,
        message.session,
        message.time,
    )
