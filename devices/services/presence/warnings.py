"""Warnings of a device: values that ingest leaves out of its messages, in words."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from devices.models import Device, DeviceOmissions

# A warning ends so long after the last message that it is about.
_RECENT = timedelta(days=1)

_TEXTS: dict[str, Promise] = {
    "message_limit": _(
        "Values of the component %(component)s were left out: a message may have 64 values without a metric, an array "
        "16 items, objects and arrays 8 levels, and a text 1,000 letters and no NUL character; a whole number must be "
        "equal to a 64-bit float, as all up to 9007199254740992 are. Add metrics for them, or let the type ignore them."
    ),
    "series_limit": _(
        "Values of the component %(component)s were left out: it has %(series)d series or more, so that values without "
        "a metric get no new ones. Add metrics for them, or let the type ignore them."
    ),
}


@dataclass(frozen=True, slots=True)
class DeviceWarning:
    """A warning of a component; `at` is the time of the newest message that it is about."""

    code: str
    detail: str
    component: str
    at: datetime


def warnings_of(device: Device, now: datetime) -> list[DeviceWarning]:
    """Return the warnings of the last day, by component."""
    omissions: DeviceOmissions | None = getattr(device, "omissions", None)
    return list(_of_omissions(omissions, now)) if omissions is not None else []


def _of_omissions(omissions: DeviceOmissions, now: datetime) -> Iterator[DeviceWarning]:
    for component, found in sorted(omissions.components.items()):
        at, code = datetime.fromisoformat(found["at"]), found["code"]
        if at >= now - _RECENT and code in _TEXTS:
            values = {"component": component, "series": settings.INGEST_UNMAPPED_SERIES}
            yield DeviceWarning(code, str(_TEXTS[code]) % values, component, at)
