"""Sentences about transitions, in the language of the reader."""

from datetime import UTC

from django.utils.translation import gettext as _

from alarms.models import AlarmTransition
from devices.services.presence.descriptions import format_time


def describe(transition: AlarmTransition) -> str:
    """Return a sentence that says what happened and why."""
    values = {
        "value": "" if transition.value is None else f"{transition.value:g} {transition.unit}".strip(),
        "severity": transition.severity,
        "before": transition.from_severity,
        "user": transition.user_label,
        "until": f"{transition.shelved_until.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if transition.shelved_until else "",
        "since": format_time(transition.since) if transition.since else "–",
    }
    return _text(transition) % values


def _text(transition: AlarmTransition) -> str:
    cause = AlarmTransition.Cause
    match transition.cause:
        case cause.ACKNOWLEDGED:
            return _("%(user)s acknowledged the alarm.")
        case cause.SHELVED:
            if transition.shelved_until is None:  # recorded before the time was
                return _("%(user)s changed the shelving of the alarm.")
            return _("%(user)s shelved the alarm until %(until)s.")
        case cause.UNSHELVED:
            return _("%(user)s ended the shelving of the alarm.")
        case cause.ENDED_BY_USER:
            return _("%(user)s ended the alarm.")
        case cause.STORM:
            return _("The rule raised more new alarms than are listed one by one.")
        case cause.STILL_RAISED:
            return _("The condition still holds (%(value)s): raised again as %(severity)s.")
        case cause.RULE_CHANGED:
            return _("The rule was changed.")
        case cause.SILENCE:
            return _("No data since %(since)s: %(severity)s.")
        case cause.PARENT_OFFLINE:
            return _text_of_device(transition)
    return _text_of_reading(transition)


def _text_of_device(transition: AlarmTransition) -> str:
    if transition.to_state == "ENDED":
        return _("The device is online again, or its components send data: the alarm has ended.")
    return _("The device is not online and its components send no data: %(severity)s.")


def _text_of_reading(transition: AlarmTransition) -> str:
    if transition.value is None:
        return _("Data came: the alarm has ended.")
    if transition.to_state == "ENDED":
        return _("The value %(value)s is clear: the alarm has ended.")
    if transition.from_state in ("NORMAL", "PENDING"):
        return _("The value %(value)s raised the alarm as %(severity)s.")
    if transition.severity != transition.from_severity:
        return _("The value %(value)s changed the severity from %(before)s to %(severity)s.")
    if transition.to_state == "RECOVERING":
        return _("The value %(value)s is clear: the alarm ends if it stays so.")
    return _("The value %(value)s is not clear any more.")
