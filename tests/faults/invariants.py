"""The ledger against the tables: what must hold after every fault."""

from collections import Counter
from dataclasses import dataclass, field

from .fleet import READINGS
from .ledger import Entry, Ledger
from .stored_rows import Found


@dataclass(slots=True)
class Result:
    """What a run came to. `lost` are acknowledged messages that are in no table."""

    sent: int
    acknowledged: int
    lost: list[Entry]
    doubled: int
    phantom: int
    wrong_schema: int
    found: Found
    broken: list[str] = field(default_factory=list)  # invariants beside the four counts, in words
    lags: list[tuple[float, float, str]] = field(default_factory=list)  # PUBACK, seconds until stored, schema
    # The broker was killed: what it loses stands in the table, and the row judges whether it was noticed.
    is_brokers_loss: bool = False

    @property
    def counts(self) -> dict[str, int]:
        return {
            "lost": len(self.lost),
            "doubled": self.doubled,
            "phantom": self.phantom,
            "wrong schema": self.wrong_schema,
        }

    def failures(self) -> list[str]:
        """What does not hold, in words; empty where everything does."""
        wrong = {name: count for name, count in self.counts.items() if count}
        if self.is_brokers_loss:
            wrong.pop("lost", None)
        return [f"{name} {count}" for name, count in wrong.items()] + self.broken

    def lag(self, share: float, *, schemas: set[str] | None = None, start: float = 0.0, stop: float = 1e12) -> float:
        """The lag (s) that `share` of the messages keep within, of those acknowledged from start to stop."""
        lags = sorted(
            lag for at, lag, schema in self.lags if start <= at < stop and (schemas is None or schema in schemas)
        )
        return lags[min(len(lags) - 1, int(share * len(lags)))] if lags else 0.0

    def throughput(self, start: float, stop: float) -> float:
        """Messages a second that became visible from start to stop."""
        return sum(start <= at + lag < stop for at, lag, _ in self.lags) / (stop - start)


def compare(ledger: Ledger, found: Found, *, excused: frozenset[str] = frozenset()) -> Result:
    """Lost, doubled, phantom, wrong schema, and conservation; schemas in `excused` do not exist any more."""
    entries = _by_name(ledger)
    # Earlier rows' are in quarantine too.
    found.refused = {name: places for name, places in found.refused.items() if name in entries}
    acknowledged = [entry for entry in entries.values() if entry.acked_at is not None]
    settled = found.stored.keys() | found.refused.keys()
    result = Result(
        sent=len(entries),
        acknowledged=len(acknowledged),
        lost=[entry for entry in acknowledged if entry.name not in settled and entry.schema not in excused],
        doubled=sum(len(places) - 1 for places in found.stored.values()),
        phantom=len(found.stored.keys() - entries.keys()),
        wrong_schema=_misplaced(entries, found),
        found=found,
    )
    result.broken = _fates(acknowledged, found) + _conservation(found) + _readings(entries, found)
    for entry in acknowledged:
        if places := found.stored.get(entry.name):
            result.lags.append((entry.acked_at or 0.0, max(0.0, places[0][2] - (entry.acked_at or 0.0)), entry.schema))
    _excuse_limited(result)
    return result


def _excuse_limited(result: Result) -> None:
    """What a limit refuses is counted and not kept: so many of the messages that may be refused are not lost."""
    left = Counter({schema: totals["rate_limited"] for schema, totals in result.found.totals.items()})
    lost = []
    for entry in result.lost:
        if entry.fate == "either" and left[entry.schema] > 0:
            left[entry.schema] -= 1
        else:
            lost.append(entry)
    result.lost = lost


def _by_name(ledger: Ledger) -> dict[tuple[str, bytes], Entry]:
    """The messages, each once however often it was sent, with the first acknowledgement that it had."""
    entries: dict[tuple[str, bytes], Entry] = {}
    for entry in list(ledger.entries):
        known = entries.setdefault(entry.name, entry)
        if known.acked_at is None and entry.acked_at is not None:
            entries[entry.name] = entry
    return entries


def _misplaced(entries: dict[tuple[str, bytes], Entry], found: Found) -> int:
    """Messages of one tenant (or device) that are stored, or quarantined, as another's."""
    count = 0
    for name, places in found.stored.items():
        entry = entries.get(name)
        count += entry is not None and any((entry.schema, entry.device_id) != place[:2] for place in places)
    for name, refusals in found.refused.items():
        entry = entries.get(name)
        count += entry is not None and any(schema not in ("", entry.schema) for schema, _ in refusals)
    return count


def _fates(acknowledged: list[Entry], found: Found) -> list[str]:
    """Good messages that were refused, by reason, and bad ones that were stored."""
    refused: Counter[str] = Counter()
    taken = 0
    for entry in acknowledged:
        if entry.fate == "stored" and entry.name not in found.stored and entry.name in found.refused:
            refused[found.refused[entry.name][0][1]] += 1
        taken += entry.fate == "refused" and entry.name in found.stored
    words = [f"{count} good messages refused: {reason}" for reason, count in sorted(refused.items())]
    return words + ([f"{taken} bad messages stored"] if taken else [])


def _conservation(found: Found) -> list[str]:
    """received = stored + duplicates + quarantined + rate limited, and the totals agree with the tables."""
    words = []
    for schema, totals in sorted(found.totals.items()):
        parts = sum(totals[name] for name in ("stored", "duplicates", "quarantined", "rate_limited"))
        if totals["received"] != parts:
            words.append(f"{schema}: {totals['received']} received, {parts} accounted for")
    counted = sum(totals["stored"] for totals in found.totals.values())
    if counted != found.rows:
        words.append(f"the totals say {counted} stored, the archive holds {found.rows}")
    return words


def _readings(entries: dict[tuple[str, bytes], Entry], found: Found) -> list[str]:
    """Each stored message has its readings, and no others are there."""
    stored = [entries[name].readings for name in found.stored if name in entries]
    least = sum(number or 0 for number in stored)
    most = least + READINGS * stored.count(None)
    words = f"{found.readings} readings where {least} belong"
    return [] if least <= found.readings <= most else [words]
