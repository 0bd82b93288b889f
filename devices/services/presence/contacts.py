"""Contacts: verified messages that do not count, in words, and what their times say of the clock."""

from datetime import datetime, timedelta

from django.db.models import F, Q
from django.utils.translation import gettext as _

from devices.models import DeviceContact

from .descriptions import format_duration, format_time

# A device is counted as sending for this long after its last contact.
_RECENT = timedelta(days=1)
_MINUTE = 60
_ZONE_SECONDS = 15 * _MINUTE
_FARTHEST_ZONE = 14 * 3600
# Seconds from 1970 to 2000, where the clocks of MicroPython begin.
_EPOCH_2000 = 946_684_800
# A clock that was never set begins in one of these years, and runs from there.
_FIRST_YEARS = (1970, 2000)
_DAY = 86400.0


def sends_without_activity(now: datetime) -> Q:
    """Return the condition of a device that sends verified messages of which none counts as activity."""
    newer = Q(presence__last_seen_at__isnull=True) | Q(contact__received_at__gt=F("presence__last_seen_at"))
    return Q(contact__received_at__gte=now - _RECENT) & ~Q(presence__status="ONLINE") & newer


def clock_offset(contact: DeviceContact) -> float | None:
    """Return how far the device's clock is ahead of the arrival in seconds; negative: behind, or the message waited."""
    return (contact.device_time - contact.received_at).total_seconds() if contact.device_time else None


def describe_contact(contact: DeviceContact) -> str:
    """Return what came last and why it does not count, in the reader's language."""
    received = format_time(contact.received_at)
    if contact.reason == DeviceContact.LATE:
        sentence = _(
            "The last message was received at %(received)s and does not count, because it is late: it is dated "
            "%(dated)s."
        ) % {"received": received, "dated": format_time(contact.device_time) if contact.device_time else "–"}
    else:
        sentence = _("The last message was received at %(received)s and refused (%(reason)s): %(detail)s") % {
            "received": received,
            "reason": contact.reason,
            "detail": contact.detail,
        }
    hint = describe_clock(contact)
    return f"{sentence} {hint}" if hint else sentence


def describe_clock(contact: DeviceContact) -> str:
    """Return what the message's time says of the device's clock; "" where the clock is not the cause."""
    offset = clock_offset(contact)
    if offset is None or contact.reason not in (DeviceContact.LATE, "future_timestamp", "past_timestamp"):
        return ""
    if (offset > 0) != (contact.reason == "future_timestamp"):
        return ""  # another time is the cause, which the detail names
    if abs(offset + _EPOCH_2000) <= _DAY:
        return _("The clock counts from 2000 instead of 1970: add %(seconds)d seconds to the time.") % {
            "seconds": _EPOCH_2000
        }
    if contact.device_time is not None and contact.device_time.year in _FIRST_YEARS:
        return _("The clock was not set: it began in %(year)d.") % {"year": contact.device_time.year}
    values = {"offset": format_duration(abs(offset))}
    if _is_zone(abs(offset)):
        if offset > 0:
            return _("The clock is %(offset)s ahead: a time zone?") % values
        return _("The clock is %(offset)s behind: a time zone?") % values
    if offset > 0:
        return _("The clock is %(offset)s ahead.") % values
    return _("The clock is %(offset)s behind, or the message has waited in the device.") % values


def _is_zone(seconds: float) -> bool:
    """Return whether the offset is that of a time zone, to the minute."""
    distance = abs(seconds - round(seconds / _ZONE_SECONDS) * _ZONE_SECONDS)
    return distance <= _MINUTE and _ZONE_SECONDS - _MINUTE <= seconds <= _FARTHEST_ZONE + _MINUTE
