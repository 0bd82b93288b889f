"""The rules of presence: as a table, and as the same outcome in whatever order evidence is processed."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.services.presence.state_machine import PresenceState, Signal, step

T0 = datetime(2026, 11, 23, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def birth(seconds: float, session: str = "", began: float | None = None) -> Signal:
    return Signal("birth", at(seconds), session, at(seconds if began is None else began))


def wrong_clock(seconds: float, session: str) -> Signal:
    """A birth of a device whose clock is wrong."""
    return Signal("birth", at(seconds), session)


def telemetry(seconds: float) -> Signal:
    return Signal("telemetry", at(seconds))


def will(seconds: float, session: str = "") -> Signal:
    return Signal("will", at(seconds), session)


def silence(seen: float) -> Signal:
    return Signal("silence", at(seen))


def gone(seconds: float) -> Signal:
    return Signal("gateway_gone", at(seconds))


def back(seconds: float) -> Signal:
    return Signal("gateway_back", at(seconds))


def quiet(seconds: float) -> Signal:
    return Signal("gateway_silence", at(seconds))


def run(signals: list[Signal], now: float = 1000) -> tuple[PresenceState, list[tuple[str, str, str]], list[str]]:
    state, changes, ignored = PresenceState(), [], []
    for signal in signals:
        result = step(state, signal, at(now))
        state = result.state
        if result.change:
            changes.append((result.change.old, result.change.new, result.change.cause))
        if result.ignored:
            ignored.append(result.ignored)
    return state, changes, ignored


ON_BIRTH, ON_TELEMETRY = ("UNKNOWN", "ONLINE", "birth"), ("UNKNOWN", "ONLINE", "telemetry")
GONE, SILENT = ("ONLINE", "OFFLINE", "will"), ("ONLINE", "TIMEOUT", "timeout")
HIDDEN = ("ONLINE", "UNKNOWN", "gateway")

TABLE: list[tuple[str, list[Signal], list[tuple[str, str, str]], list[str]]] = [
    ("nothing", [], [], []),
    ("a birth", [birth(1, "a")], [ON_BIRTH], []),
    ("telemetry alone", [telemetry(1)], [ON_TELEMETRY], []),
    ("telemetry of a device that is there", [birth(1, "a"), telemetry(2), telemetry(3)], [ON_BIRTH], []),
    ("the will of its session", [birth(1, "a"), will(2, "a")], [ON_BIRTH, GONE], []),
    ("a will comes twice", [birth(1, "a"), will(2, "a"), will(2, "a")], [ON_BIRTH, GONE], []),
    ("an old session's will", [birth(1, "a"), birth(3, "b"), will(4, "a")], [ON_BIRTH], ["other_session"]),
    (
        "takeover: old will, then new birth",
        [birth(1, "a"), will(2, "a"), birth(2.1, "b")],
        [ON_BIRTH, GONE, ("OFFLINE", "ONLINE", "birth")],
        [],
    ),
    ("a will before its birth", [birth(1, "a"), will(5, "b"), birth(4, "b")], [ON_BIRTH, GONE], ["other_session"]),
    ("a will before the first birth", [will(5, "a"), birth(4, "a")], [("UNKNOWN", "OFFLINE", "will")], []),
    ("an old birth after the new one", [birth(4, "b"), birth(5, "a", began=1), will(6, "b")], [ON_BIRTH, GONE], []),
    ("a birth with a wrong clock", [wrong_clock(1, "a"), will(2, "a")], [ON_BIRTH, GONE], []),
    (
        "a birth with a wrong clock after one with a right clock",
        [birth(1, "a"), wrong_clock(2, "b"), will(3, "a"), telemetry(4), will(5, "b")],
        [ON_BIRTH, GONE],
        ["other_session"],
    ),
    (
        "a right clock after a wrong one",
        [wrong_clock(1, "a"), birth(2, "b", began=-90), will(3, "a"), will(4, "b")],
        [ON_BIRTH, GONE],
        ["other_session"],
    ),
    (
        "births with wrong clocks, the later processed first",
        [wrong_clock(5, "b"), wrong_clock(1, "a"), will(6, "a"), will(7, "b")],
        [ON_BIRTH, GONE],
        ["other_session"],
    ),
    (
        "births that waited for hours at the broker, read together",
        [wrong_clock(9, "a"), birth(9, "b", began=3), will(9.5, "a"), will(10, "b")],
        [ON_BIRTH, GONE],
        ["other_session"],
    ),
    (
        "a will before a birth with a wrong clock",
        [birth(1, "a"), will(5, "b"), wrong_clock(4, "b")],
        [ON_BIRTH, GONE],
        ["other_session"],
    ),
    (
        "a session that begins again",
        [wrong_clock(1, "a"), will(6, "a"), wrong_clock(3, "b"), wrong_clock(5, "a")],
        [ON_BIRTH, GONE, ("OFFLINE", "ONLINE", "birth"), ("ONLINE", "OFFLINE", "will")],
        [],
    ),
    ("a will older than telemetry", [birth(1, "a"), telemetry(9), will(5, "a")], [ON_BIRTH], ["seen_since"]),
    ("telemetry older than the will", [birth(1, "a"), will(5, "a"), telemetry(4)], [ON_BIRTH, GONE], []),
    (
        "telemetry after the will",
        [birth(1, "a"), will(5, "a"), telemetry(6)],
        [ON_BIRTH, GONE, ("OFFLINE", "ONLINE", "telemetry")],
        [],
    ),
    ("old firmware's will", [telemetry(1), will(5)], [ON_TELEMETRY, GONE], []),
    ("silence", [telemetry(1), silence(1)], [ON_TELEMETRY, SILENT], []),
    ("silence counted from before the last sign", [telemetry(1), telemetry(8), silence(1)], [ON_TELEMETRY], []),
    ("silence of a device that is not there", [birth(1, "a"), will(2, "a"), silence(1)], [ON_BIRTH, GONE], []),
    ("silence of one that never spoke", [silence(1)], [], []),
    ("silence twice", [telemetry(1), silence(1), silence(1)], [ON_TELEMETRY, SILENT], []),
    (
        "it speaks again",
        [telemetry(1), silence(1), telemetry(90)],
        [ON_TELEMETRY, SILENT, ("TIMEOUT", "ONLINE", "telemetry")],
        [],
    ),
    (
        "the last sign comes again after the timeout",
        [telemetry(1), silence(1), telemetry(1)],
        [ON_TELEMETRY, SILENT],
        [],
    ),
    (
        "its connection dies after the timeout",
        [birth(1, "a"), silence(1), will(99, "a")],
        [ON_BIRTH, SILENT, ("TIMEOUT", "OFFLINE", "will")],
        [],
    ),
    ("deactivated", [telemetry(1), Signal("deactivated", at(5))], [ON_TELEMETRY, ("ONLINE", "UNKNOWN", "staff")], []),
    (
        "a wrong clock after a deactivation",
        [birth(9, "a"), Signal("deactivated", at(10)), wrong_clock(11, "b"), will(12, "b")],
        [ON_BIRTH, ("ONLINE", "UNKNOWN", "staff"), ON_BIRTH, GONE],
        [],
    ),
    ("its gateway is gone", [telemetry(1), gone(5)], [ON_TELEMETRY, HIDDEN], []),
    ("its gateway is gone twice", [telemetry(1), gone(5), gone(6)], [ON_TELEMETRY, HIDDEN], []),
    ("it was seen after its gateway's end", [telemetry(6), gone(5)], [ON_TELEMETRY], []),
    ("its message from before the end comes late", [telemetry(1), gone(5), telemetry(4)], [ON_TELEMETRY, HIDDEN], []),
    ("it never spoke, and its gateway is gone", [gone(5)], [], []),
    ("hidden, it speaks", [telemetry(1), gone(5), telemetry(6)], [ON_TELEMETRY, HIDDEN, ON_TELEMETRY], []),
    ("hidden, it is silent", [telemetry(1), gone(5), silence(1)], [ON_TELEMETRY, HIDDEN], []),
    (
        "hidden, its own will",
        [birth(1, "a"), gone(5), will(6, "a")],
        [ON_BIRTH, HIDDEN, ("UNKNOWN", "OFFLINE", "will")],
        [],
    ),
    ("its gateway is back", [telemetry(1), gone(5), back(9)], [ON_TELEMETRY, HIDDEN], []),
    (
        "its gateway is back, and it stays silent",
        [telemetry(1), gone(5), back(9), quiet(99)],
        [ON_TELEMETRY, HIDDEN, ("UNKNOWN", "TIMEOUT", "timeout")],
        [],
    ),
    ("its gateway is gone again", [telemetry(1), gone(5), back(9), gone(20), quiet(99)], [ON_TELEMETRY, HIDDEN], []),
    ("its gateway came back later", [telemetry(1), gone(5), back(100), quiet(99)], [ON_TELEMETRY, HIDDEN], []),
    (
        "it spoke since",
        [telemetry(1), gone(5), back(9), telemetry(10), quiet(99)],
        [ON_TELEMETRY, HIDDEN, ON_TELEMETRY],
        [],
    ),
    ("OFFLINE by its own will", [birth(1, "a"), will(2, "a"), gone(5), back(6), quiet(99)], [ON_BIRTH, GONE], []),
    ("in TIMEOUT already", [telemetry(1), silence(1), gone(5), back(6), quiet(99)], [ON_TELEMETRY, SILENT], []),
    ("deactivated twice", [Signal("deactivated", at(5)), Signal("deactivated", at(6))], [], []),
]


@pytest.mark.parametrize(("signals", "changes", "ignored"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_table(signals: list[Signal], changes: list[tuple[str, str, str]], ignored: list[str]) -> None:
    _, happened, unheeded = run(signals)
    assert happened == changes
    assert unheeded == ignored


def test_evidence_from_the_future_is_not_believed() -> None:
    """The clock is set back by an hour: what was recorded before must not keep the device OFFLINE or ONLINE."""
    state, _, _ = run([birth(3600, "a"), will(3601, "a")], now=4000)
    assert step(state, telemetry(10), at(10)).state.status == "ONLINE"
    state, _, _ = run([telemetry(3600)], now=4000)
    assert step(state, silence(20), at(80)).state.status == "TIMEOUT"


SESSIONS = ("a", "b", "c", "d")


@st.composite
def evidence(draw: Any) -> list[Signal]:
    """Births of some sessions, wills of them, telemetry, and ends of a gateway, at distinct times, in any order.

    Either all clocks are right, and births may arrive in another order than they were sent; or some are wrong, and
    those that are right agree with the order of arrival.
    """
    times = draw(st.lists(st.integers(1, 500), min_size=1, max_size=9, unique=True))
    some_wrong = draw(st.booleans())
    signals = []
    for number, seconds in enumerate(sorted(times) if some_wrong else times):
        kind = draw(st.sampled_from(["birth", "will", "telemetry", "gateway_gone"]))
        session = draw(st.sampled_from(SESSIONS))
        if kind == "birth" and some_wrong:
            signals.append(wrong_clock(seconds, session) if draw(st.booleans()) else birth(seconds, session))
        elif kind == "birth":
            # A session begins once; its birth may come several times.
            signals.append(birth(seconds, session, began=SESSIONS.index(session)))
        elif kind == "will":
            signals.append(will(seconds, session))
        elif kind == "gateway_gone":
            signals.append(gone(seconds))
        else:
            signals.append(telemetry(seconds))
        if draw(st.integers(0, 3)) == 0:
            signals.append(signals[draw(st.integers(0, number))])
    return list(draw(st.permutations(signals)))


def _newest(births: list[Signal]) -> str | None:
    """The session of the newest birth: by their clocks where all are right, else by their arrival."""
    if not births:
        return None
    by_clock = [birth.session_at for birth in births]
    if None not in by_clock:
        return max(births, key=lambda birth: birth.session_at or T0).session
    return max(births, key=lambda birth: birth.at).session


def expected(signals: list[Signal]) -> str:
    """The reference: what all the evidence together says, with no regard to order."""
    newest = _newest([s for s in signals if s.kind == "birth"])
    seen = max((s.at for s in signals if s.kind in ("birth", "telemetry")), default=None)
    counting = [s.at for s in signals if s.kind == "will" and (newest is None or s.session == newest)]
    ended = max(counting, default=None)
    if ended is not None and (seen is None or ended >= seen):
        return "OFFLINE"
    hidden = max((s.at for s in signals if s.kind == "gateway_gone"), default=None)
    return "UNKNOWN" if seen is None or (hidden is not None and hidden >= seen) else "ONLINE"


@given(evidence())
def test_the_outcome_does_not_depend_on_the_order(signals: list[Signal]) -> None:
    state, changes, _ = run(signals)
    assert state.status == expected(signals)
    chain = ["UNKNOWN", *(new for _, new, _ in changes)]
    assert [old for old, _, _ in changes] == chain[:-1]
