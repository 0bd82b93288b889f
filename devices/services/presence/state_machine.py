"""The rules of presence as one pure function: a state and a signal give the next state, and perhaps a transition.

Signals may be processed in another order than they happened (two listeners, redelivery, a slow checker), so every
rule compares the times of evidence, never the order of arrival: the result is the same in any order.

* A birth or live telemetry is activity. It ends OFFLINE unless the will that counts is newer.
* The newest birth's session is the device's. Two births whose clocks were right are compared by these, which stays
  right when one is redelivered; a birth with a wrong clock is compared by its arrival, since it came over a live
  connection.
* A will counts for its session, if that is the device's newest. A will of an old session changes nothing, and a will of
  a session without a birth waits for the birth. A will without a session always counts.
* Silence counts for an ONLINE device without activity after the start of the silence. A device in TIMEOUT stays in
  TIMEOUT, and its last activity is updated.
* When a device's gateway is gone, the device is UNKNOWN, unless its own evidence is newer, or says that it is OFFLINE
  or in TIMEOUT. When the gateway is back, the device stays UNKNOWN until its next activity, or until it has been silent
  for its timeout since then.

All times are of one clock. Evidence from the future of that clock (it was set back) is discarded.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

Status = Literal["UNKNOWN", "ONLINE", "OFFLINE", "TIMEOUT"]
Kind = Literal[
    "birth", "telemetry", "will", "silence", "deactivated", "gateway_gone", "gateway_back", "gateway_silence"
]

# Redis stores the times of evidence as rounded doubles, and a clock's offset moves a little.
ROUNDING = timedelta(milliseconds=1)
_MAX_OTHER_WILLS = 8


@dataclass(frozen=True, slots=True)
class PresenceState:
    """The presence of a device; the fields of DeviceStatus."""

    status: str = "UNKNOWN"
    cause: str = ""
    since: datetime | None = None
    session: str = ""
    session_at: datetime | None = None
    last_seen_at: datetime | None = None
    will_at: datetime | None = None
    other_wills: tuple[tuple[str, datetime], ...] = ()
    session_received_at: datetime | None = None
    gateway_gone_at: datetime | None = None
    gateway_back_at: datetime | None = None

    @property
    def is_hidden(self) -> bool:
        """Whether the state is UNKNOWN because the gateway is gone, or was."""
        return self.status == "UNKNOWN" and self.cause == "gateway"


@dataclass(frozen=True, slots=True)
class Signal:
    """Evidence about the presence of a device. `at` is the server's time of the evidence.

    For silence, `at` is when the device was last seen. `gateway_silence` is silence since the gateway is back at `at`.
    `session_at` is a birth's own timestamp, on the device's clock; None where that clock is wrong.
    """

    kind: Kind
    at: datetime
    session: str = ""
    session_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of the status, recorded as a StatusChange."""

    old: str
    new: str
    cause: str
    session: str
    evidence_at: datetime


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of a signal: the state after it, the transition if any, and why a will was ignored."""

    state: PresenceState
    change: Transition | None = None
    ignored: str = ""


def step(state: PresenceState, signal: Signal, now: datetime) -> StepResult:
    """Return the result of the signal. `now` is the server's time, of the same clock as the evidence."""
    state = _discard_future(state, now)
    if signal.kind == "will":
        return _will(state, signal)
    if signal.kind == "silence":
        return _silence(state, signal, now)
    if signal.kind in _GATEWAY_RULES:
        return _GATEWAY_RULES[signal.kind](state, signal, now)
    if signal.kind == "deactivated":
        return _transition(
            replace(state, session="", session_at=None, session_received_at=None, will_at=None),
            *("UNKNOWN", "staff", signal.at, now),
        )
    return _activity(state, signal)


def _activity(state: PresenceState, signal: Signal) -> StepResult:
    news = state.last_seen_at is None or signal.at > state.last_seen_at + ROUNDING
    seen = _latest(state.last_seen_at, signal.at)
    state = replace(state, last_seen_at=seen)
    if signal.kind == "birth":
        state = _begin_session(state, signal)
    if state.will_at is not None and state.will_at >= seen:
        # The will is newer than all activity: this signal only arrived late.
        return _transition(state, "OFFLINE", "will", state.will_at, state.will_at)
    if state.status == "TIMEOUT" and not news:
        return StepResult(state)
    if state.gateway_gone_at is not None and seen <= state.gateway_gone_at:
        # The gateway was gone after all activity: this signal only arrived late.
        return _hide(state)
    cause = "birth" if signal.kind == "birth" else "telemetry"
    return _transition(state, "ONLINE", cause, signal.at, signal.at)


def _begin_session(state: PresenceState, birth: Signal) -> PresenceState:
    """Make the newest birth's session the device's; a will that arrived before its birth counts from now on."""
    if not birth.session:
        return state
    if birth.session == state.session:
        return replace(state, session_received_at=_latest(state.session_received_at, birth.at))
    if _is_older(birth, state):
        return state
    wills = state.other_wills
    if state.session and state.will_at is not None:
        wills = _with_will(wills, state.session, state.will_at)
    return replace(
        state,
        session=birth.session,
        session_at=birth.session_at,
        session_received_at=birth.at,
        will_at=max((at for session, at in wills if session == birth.session), default=None),
        other_wills=tuple(will for will in wills if will[0] != birth.session),
    )


def _is_older(birth: Signal, state: PresenceState) -> bool:
    """Return whether the birth is older than that of the device's session."""
    if state.session_at is not None and birth.session_at is not None:
        return birth.session_at < state.session_at
    return state.session_received_at is not None and birth.at < state.session_received_at


def _with_will(wills: tuple[tuple[str, datetime], ...], session: str, at: datetime) -> tuple[tuple[str, datetime], ...]:
    others = sorted({*wills, (session, at)}, key=lambda other: other[1])
    return tuple(others[-_MAX_OTHER_WILLS:])


def _will(state: PresenceState, will: Signal) -> StepResult:
    if will.session and will.session != state.session:
        state = replace(state, other_wills=_with_will(state.other_wills, will.session, will.at))
        if state.session:
            return StepResult(state, ignored="other_session")
    state = replace(state, will_at=_latest(state.will_at, will.at))
    if state.last_seen_at is not None and will.at < state.last_seen_at:
        return StepResult(state, ignored="seen_since")
    return _transition(state, "OFFLINE", "will", will.at, will.at)


def _silence(state: PresenceState, silence: Signal, now: datetime) -> StepResult:
    if state.status == "TIMEOUT":
        # Active since its timeout, and silent again: only the time of its activity is new.
        return StepResult(replace(state, last_seen_at=_latest(state.last_seen_at, silence.at)))
    if state.status != "ONLINE":
        return StepResult(state)
    if state.last_seen_at is not None and state.last_seen_at > silence.at + ROUNDING:
        return StepResult(state)
    state = replace(state, last_seen_at=_latest(state.last_seen_at, silence.at))
    return _transition(state, "TIMEOUT", "timeout", silence.at, now)


def _gateway_gone(state: PresenceState, gone: Signal, now: datetime) -> StepResult:
    state = replace(state, gateway_gone_at=_latest(state.gateway_gone_at, gone.at))
    if state.status != "ONLINE" or (state.last_seen_at is not None and state.last_seen_at > gone.at):
        return StepResult(state)
    return _hide(state)


def _gateway_back(state: PresenceState, back: Signal, now: datetime) -> StepResult:
    return StepResult(replace(state, gateway_back_at=_latest(state.gateway_back_at, back.at)))


def _gateway_silence(state: PresenceState, silence: Signal, now: datetime) -> StepResult:
    """Time out a hidden device that was silent since the gateway is back, unless that is gone again, or came later."""
    gone, back = state.gateway_gone_at, state.gateway_back_at
    if not state.is_hidden or back is None or back > silence.at + ROUNDING or (gone is not None and gone > back):
        return StepResult(state)
    return _transition(state, "TIMEOUT", "timeout", state.last_seen_at or silence.at, now)


_GATEWAY_RULES = {
    "gateway_gone": _gateway_gone,
    "gateway_back": _gateway_back,
    "gateway_silence": _gateway_silence,
}


def _hide(state: PresenceState) -> StepResult:
    """Return the state UNKNOWN, since the gateway is gone."""
    gone = state.gateway_gone_at
    assert gone is not None  # noqa: S101 (for the type checker)
    if state.status == "UNKNOWN":
        return StepResult(replace(state, cause="gateway", since=state.since or gone))
    return _transition(state, "UNKNOWN", "gateway", gone, gone)


def _transition(state: PresenceState, status: str, cause: str, evidence_at: datetime, since: datetime) -> StepResult:
    if state.status == status:
        return StepResult(state)
    change = Transition(state.status, status, cause, state.session, evidence_at)
    return StepResult(replace(state, status=status, cause=cause, since=since), change)


def _discard_future(state: PresenceState, now: datetime) -> PresenceState:
    """Discard times ahead of a clock that was set back: they must not outrank new evidence."""
    horizon = now + timedelta(seconds=1)
    return replace(
        state,
        last_seen_at=_past(state.last_seen_at, horizon),
        will_at=_past(state.will_at, horizon),
        session_received_at=_past(state.session_received_at, horizon),
        gateway_gone_at=_past(state.gateway_gone_at, horizon),
        gateway_back_at=_past(state.gateway_back_at, horizon),
        other_wills=tuple(will for will in state.other_wills if will[1] <= horizon),
    )


def _past(at: datetime | None, horizon: datetime) -> datetime | None:
    return None if at is not None and at > horizon else at


def _latest(one: datetime | None, other: datetime) -> datetime:
    return other if one is None else max(one, other)
