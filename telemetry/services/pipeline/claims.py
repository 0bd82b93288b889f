"""The times of validity of a version 2 message: the claims `exp` and `nbf` of JSON Web Tokens (RFC 7519). Pure."""

from datetime import datetime
from typing import Any

from devices.domain.specs import ComponentSpec

from .contract import ClockTolerance
from .normalization import read_timestamp
from .results import Refusal, quote_json

VALIDITY = frozenset({"exp", "nbf"})


def check_validity(
    message: dict[str, Any], component: ComponentSpec | None, received_at: datetime, clock: ClockTolerance
) -> None:
    """Raise Refusal for a claim that is invalid (`malformed`), or excludes the time of arrival (`past_timestamp`,
    `future_timestamp`) by more than the tolerance of clocks. A claim for which the type has a metric is a value.
    """
    mapped = set() if component is None else {metric.path[0] for metric in component.metrics}
    for name in VALIDITY & (message.keys() - mapped):
        moment = _read_date(name, message[name])
        if name == "exp" and received_at - moment >= clock.future:
            raise Refusal("past_timestamp", _detail("exp", moment, "before", received_at))
        if name == "nbf" and moment - received_at > clock.future:
            raise Refusal("future_timestamp", _detail("nbf", moment, "after", received_at))


def _read_date(name: str, value: Any) -> datetime:
    if not isinstance(value, bool) and isinstance(value, int | float):
        try:
            return read_timestamp(value)
        except Refusal:
            pass
    raise Refusal("malformed", f"The claim {name} must be a Unix time as a number, not {quote_json(value)}.")


def _detail(name: str, moment: datetime, relation: str, received_at: datetime) -> str:
    arrival = received_at.isoformat(timespec="seconds")
    return (
        f"The claim {name} of the token, {moment.isoformat()}, is {relation} its arrival at {arrival}. Set the "
        f"device's clock, or send tokens that are valid when they arrive; {name} may be left out."
    )
