"""The rules of presence, as one pure function: a state and a signal give the next state, and perhaps a change.

Signals may be processed in another order than they happened (two listeners, redelivery, a slow checker), so every
rule compares the times of evidence, never the order of arrival: the outcome is the same in any order.

* A birth or live telemetry is a sign of life. It ends OFFLINE unless the will that counts is newer.
* A will counts for the session that it names, if that is the device's newest; a will of an old session changes
  nothing, and one of a session whose birth has not come yet waits for it. A will without a session counts always.
* Silence counts for a device that is ONLINE and was not seen after the time that the silence was counted from. One that
  is TIMEOUT stays so, and was last seen then.

All times are of one clock. Evidence from the future of that clock (it was set back) is not believed.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

Status = Literal["UNKNOWN", "ONLINE", "OFFLINE", "TIMEOUT"]
Kind = Literal["birth", "telemetry", "will", "silence", "deactivated"]

# The clock of evidence is kept in rounded doubles.
ROUNDING = timedelta(milliseconds=1)
_REMEMBERED_WILLS = 8


@dataclass(frozen=True, slots=True)
class State:
    """What is known of a device; the fields of DeviceStatus."""

    status: str = "UNKNOWN"
    reason: str = ""
    since: datetime | None = None
    session: str = ""
    session_at: datetime | None = None
    last_seen_at: datetime | None = None
    will_at: datetime | None = None
    other_wills: tuple[tuple[str, datetime], ...] = ()


@dataclass(frozen=True, slots=True)
class Signal:
    """Something that says whether the device is there. `at` is the server's time of the evidence.

    For silence, `at` is when the device was last seen. `session_at` is a birth's own timestamp, on the device's
    clock, which tells the newer of two births.
    """

    kind: Kind
    at: datetime
    session: str = ""
    session_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A transition: a row of the ledger."""

    old: str
    new: str
    cause: str
    session: str
    evidence_at: datetime


@dataclass(frozen=True, slots=True)
class Step:
    """What a signal did: the state after it, the transition if there was one, and why a will was ignored."""

    state: State
    change: Change | None = None
    ignored: str = ""


def step(state: State, signal: Signal, now: datetime) -> Step:
    """The state after the signal. `now` is the server's time, of the same clock as the evidence."""
    state = _without_the_future(state, now)
    if signal.kind == "will":
        return _will(state, signal)
    if signal.kind == "silence":
        return _silence(state, signal, now)
    if signal.kind == "deactivated":
        return _turn(replace(state, session="", session_at=None, will_at=None), "UNKNOWN", "staff", signal.at, now)
    return _life(state, signal)


def _life(state: State, signal: Signal) -> Step:
    news = state.last_seen_at is None or signal.at > state.last_seen_at
    seen = _latest(state.last_seen_at, signal.at)
    state = replace(state, last_seen_at=seen)
    if signal.kind == "birth":
        state = _begin_session(state, signal)
    if state.will_at is not None and state.will_at >= seen:
        # The will is newer than every sign of life: this one was only slow to arrive.
        return _turn(state, "OFFLINE", "will", state.will_at, state.will_at)
    if state.status == "TIMEOUT" and not news:
        return Step(state)
    cause = "birth" if signal.kind == "birth" else "telemetry"
    return _turn(state, "ONLINE", cause, signal.at, signal.at)


def _begin_session(state: State, birth: Signal) -> State:
    """The newest birth's session is the device's; a will that came before its birth counts from now on."""
    if not birth.session or birth.session == state.session:
        return state
    if state.session_at is not None and birth.session_at is not None and birth.session_at < state.session_at:
        return state
    return replace(
        state,
        session=birth.session,
        session_at=birth.session_at,
        will_at=max((at for session, at in state.other_wills if session == birth.session), default=None),
        other_wills=tuple(will for will in state.other_wills if will[0] != birth.session),
    )


def _will(state: State, will: Signal) -> Step:
    if will.session and will.session != state.session:
        others = sorted({*state.other_wills, (will.session, will.at)}, key=lambda other: other[1])
        state = replace(state, other_wills=tuple(others[-_REMEMBERED_WILLS:]))
        if state.session:
            return Step(state, ignored="other_session")
    state = replace(state, will_at=_latest(state.will_at, will.at))
    if state.last_seen_at is not None and will.at < state.last_seen_at:
        return Step(state, ignored="seen_since")
    return _turn(state, "OFFLINE", "will", will.at, will.at)


def _silence(state: State, silence: Signal, now: datetime) -> Step:
    if state.status == "TIMEOUT":
        # Seen since it was called silent, and silent again: that it was seen is told with it.
        return Step(replace(state, last_seen_at=_latest(state.last_seen_at, silence.at)))
    if state.status != "ONLINE":
        return Step(state)
    if state.last_seen_at is not None and state.last_seen_at > silence.at + ROUNDING:
        return Step(state)
    state = replace(state, last_seen_at=_latest(state.last_seen_at, silence.at))
    return _turn(state, "TIMEOUT", "timeout", silence.at, now)


def _turn(state: State, status: str, cause: str, evidence_at: datetime, since: datetime) -> Step:
    if state.status == status:
        return Step(state)
    change = Change(state.status, status, cause, state.session, evidence_at)
    return Step(replace(state, status=status, reason=cause, since=since), change)


def _without_the_future(state: State, now: datetime) -> State:
    """The clock was set back: what was recorded ahead of it must not outrank what happens now."""
    horizon = now + timedelta(seconds=1)
    return replace(
        state,
        last_seen_at=_past(state.last_seen_at, horizon),
        will_at=_past(state.will_at, horizon),
        other_wills=tuple(will for will in state.other_wills if will[1] <= horizon),
    )


def _past(at: datetime | None, horizon: datetime) -> datetime | None:
    return None if at is not None and at > horizon else at


def _latest(one: datetime | None, other: datetime) -> datetime:
    return other if one is None else max(one, other)
