"""Descriptions of status changes for people: cause, times and evidence."""

from collections.abc import Callable
from datetime import datetime

from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from devices.models import IgnoredWill, StatusChange
from devices.models.presence import Cause, Status

_IGNORED_REASONS: dict[str, Promise] = {
    "other_session": gettext_lazy("it belongs to another session than the current one"),
    "seen_since": gettext_lazy("a newer message of the device was received"),
}


def describe_change(change: StatusChange, current_session: str = "") -> str:
    """Return the cause of the change as a sentence with its times and session, in the reader's language.

    `current_session`: that of the device, whose will counts; a device may have connected again since the change.
    """
    template = _sentence(change)
    # A page of devices has a sentence for each: only what it shows is formatted.
    values = {name: read(change) for name, read in _VALUES.items() if f"%({name})s" in template}
    sentence = template % values
    if change.session and current_session and current_session != change.session:
        values = {"session": change.session, "current": current_session}
        sentence += " " + _("Session %(session)s; the current session is %(current)s.") % values
    elif change.session:
        sentence += " " + _("Session %(session)s.") % {"session": change.session}
    return sentence


def describe_suppression(change: StatusChange) -> str:
    """Return why the change was not published to apps; "" if it was."""
    return (
        _("Not published: %(reason)s.") % {"reason": change.get_suppressed_by_display()} if change.suppressed_by else ""
    )


def describe_ignored_will(will: IgnoredWill) -> str:
    """Return why a will did not change the state."""
    return str(_IGNORED_REASONS.get(will.reason, will.reason))


def format_time(time: datetime) -> str:
    """Return the time to the second, in the current time zone, with the zone's name."""
    local = timezone.localtime(time)
    return f"{local.isoformat(' ')[:19]} {local.tzname()}"


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units, for example 3 h 20 min."""
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
    """Return the sentence of the cause, with placeholders for `evidence`, `recorded` and `silence`."""
    if change.cause == Cause.STAFF and change.to_status == Status.UNKNOWN:
        return _("Deactivated by a user at %(evidence)s.")
    return str(_SENTENCES[change.cause])


_SENTENCES: dict[str, Promise] = {
    Cause.TIMEOUT: gettext_lazy(
        "No message since %(evidence)s. The timeout passed at %(recorded)s, %(silence)s later."
    ),
    Cause.TELEMETRY: gettext_lazy("Live telemetry received at %(evidence)s."),
    Cause.BIRTH: gettext_lazy("Birth message received at %(evidence)s."),
    Cause.WILL: gettext_lazy("Connection lost or closed: the will was received at %(evidence)s."),
    Cause.GATEWAY: gettext_lazy(
        "Its gateway is gone since %(evidence)s, so that the state of the device is not known."
    ),
    Cause.STAFF: gettext_lazy("Set by a user at %(recorded)s."),
    Cause.RECONCILE: gettext_lazy("Corrected after a failure at %(recorded)s, based on evidence from %(evidence)s."),
}
_VALUES: dict[str, Callable[[StatusChange], str]] = {
    "evidence": lambda change: format_time(change.evidence_at),
    "recorded": lambda change: format_time(change.at),
    "silence": lambda change: format_duration((change.at - change.evidence_at).total_seconds()),
}
