"""A change of the ledger in words: what happened, when, and how we know."""

from datetime import datetime

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from devices.models import IgnoredSign, StatusChange
from devices.models.presence import Cause, Status

_WHY_IGNORED: dict[str, Promise] = {
    "other_session": gettext_lazy("it belongs to another session than the current one"),
    "seen_since": gettext_lazy("a newer message of the device was received"),
}


def why(change: StatusChange) -> str:
    """The change's cause in a sentence, with its times and session, in the reader's language."""
    sentence = _sentence(change) % {
        "evidence": moment(change.evidence_at),
        "recorded": moment(change.at),
        "silence": duration((change.at - change.evidence_at).total_seconds()),
    }
    if change.session:
        sentence += " " + _("Session %(session)s.") % {"session": change.session}
    return sentence


def why_quiet(change: StatusChange) -> str:
    """Why nobody was told of the change; "" where apps were."""
    return _("Not published: %(reason)s.") % {"reason": change.get_quiet_display()} if change.quiet else ""


def why_ignored(sign: IgnoredSign) -> str:
    """Why a will changed nothing."""
    return str(_WHY_IGNORED.get(sign.why, sign.why))


def moment(time: datetime) -> str:
    """The time to the second, in the current time zone, with the zone's name."""
    return date_format(timezone.localtime(time), "Y-m-d H:i:s T")


def duration(seconds: float) -> str:
    """A length of time in its two largest units, for example 3 h 20 min."""
    whole = max(0, round(seconds))
    parts = [
        (whole // 86400, _("%(n)d d")),
        (whole // 3600 % 24, _("%(n)d h")),
        (whole // 60 % 60, _("%(n)d min")),
        (whole % 60, _("%(n)d s")),
    ]
    first = next((place for place, (number, _unit) in enumerate(parts) if number), len(parts) - 1)
    shown = [unit % {"n": number} for number, unit in parts[first : first + 2] if number or len(parts) - 1 == first]
    return " ".join(shown)


def _sentence(change: StatusChange) -> str:
    """The sentence for the cause, to be filled in with `evidence`, `recorded` and `silence`."""
    if change.cause == Cause.TIMEOUT:
        return _("No message since %(evidence)s. The time-out passed at %(recorded)s, %(silence)s later.")
    if change.cause == Cause.STAFF and change.to_status == Status.UNKNOWN:
        return _("Deactivated by a user at %(evidence)s.")
    return {
        Cause.TELEMETRY: _("Live telemetry received at %(evidence)s."),
        Cause.BIRTH: _("Birth message received at %(evidence)s."),
        Cause.WILL: _("Connection lost or closed: the will was received at %(evidence)s."),
        Cause.STAFF: _("Set by a user at %(recorded)s."),
        Cause.RECONCILE: _("Corrected after a failure at %(recorded)s, based on evidence from %(evidence)s."),
    }[Cause(change.cause)]
