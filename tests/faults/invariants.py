"""The invariants after every fault: the ledger compared with the tables."""

from collections import Counter
from dataclasses import dataclass, field

from .fleet import READINGS
from .ledger import Entry, Ledger
from .stored_rows import TableContents


@dataclass(slots=True)
class LedgerComparison:
    """The counts of a run. `lost` are acknowledged messages that are in no table."""

    sent: int
    acknowledged: int
    lost: list[Entry]
    doubled: int
    phantom: int
    wrong_schema: int
    tables: TableContents
    broken: list[str] = field(default_factory=list)  # invariants beside the four counts, in words
    lags: list[tuple[float, float, str]] = field(default_factory=list)  # PUBACK, seconds until stored, schema
    # The broker was killed: its losses are in the report, and the row checks whether they were noticed.
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
        """Return a sentence for each broken invariant."""
        wrong = {name: count for name, count in self.counts.items() if count}
        if self.is_brokers_loss:
            wrong.pop("lost", None)
        return [f"{name} {count}" for name, count in wrong.items()] + self.broken

    def lag(self, share: float, *, schemas: set[str] | None = None, start: float = 0.0, stop: float = 1e12) -> float:
        """Return the lag (s) within which `share` of the messages stay, of those acknowledged from start to stop."""
        lags = sorted(
            lag for at, lag, schema in self.lags if start <= at < stop and (schemas is None or schema in schemas)
        )
        return lags[min(len(lags) - 1, int(share * len(lags)))] if lags else 0.0

    def throughput(self, start: float, stop: float) -> float:
        """Return the messages a second that became visible from start to stop."""
        return sum(start <= at + lag < stop for at, lag, _ in self.lags) / (stop - start)


def compare(
    message_ledger: Ledger, tables: TableContents, *, excused: frozenset[str] = frozenset()
) -> LedgerComparison:
    """Return lost, doubled, phantom and misplaced messages, and conservation; schemas in `excused` were removed."""
    entries = _by_name(message_ledger)
    # Earlier rows' are in quarantine too.
    tables.refused = {name: places for name, places in tables.refused.items() if name in entries}
    acknowledged = [entry for entry in entries.values() if entry.acked_at is not None]
    settled = tables.stored.keys() | tables.refused.keys()
    result = LedgerComparison(
        sent=len(entries),
        acknowledged=len(acknowledged),
        lost=[entry for entry in acknowledged if entry.name not in settled and entry.schema not in excused],
        doubled=sum(len(places) - 1 for places in tables.stored.values()),
        phantom=len(tables.stored.keys() - entries.keys()),
        wrong_schema=_misplaced(entries, tables),
        tables=tables,
    )
    result.broken = _fates(acknowledged, tables) + _conservation(tables) + _readings(entries, tables)
    for entry in acknowledged:
        if places := tables.stored.get(entry.name):
            result.lags.append((entry.acked_at or 0.0, max(0.0, places[0][2] - (entry.acked_at or 0.0)), entry.schema))
    _excuse_limited(result)
    return result


def _excuse_limited(result: LedgerComparison) -> None:
    """Take messages that a limit counted instead of keeping out of the lost ones."""
    left = Counter({schema: totals["rate_limited"] for schema, totals in result.tables.totals.items()})
    lost = []
    for entry in result.lost:
        if entry.fate == "either" and left[entry.schema] > 0:
            left[entry.schema] -= 1
        else:
            lost.append(entry)
    result.lost = lost


def _by_name(message_ledger: Ledger) -> dict[tuple[str, bytes], Entry]:
    """Return each message once, with its first acknowledgement."""
    entries: dict[tuple[str, bytes], Entry] = {}
    for entry in list(message_ledger.entries):
        known = entries.setdefault(entry.name, entry)
        if known.acked_at is None and entry.acked_at is not None:
            entries[entry.name] = entry
    return entries


def _misplaced(entries: dict[tuple[str, bytes], Entry], tables: TableContents) -> int:
    """Messages of one tenant (or device) that are stored, or quarantined, as another's."""
    count = 0
    for name, places in tables.stored.items():
        entry = entries.get(name)
        count += entry is not None and any((entry.schema, entry.device_id) != place[:2] for place in places)
    for name, refusals in tables.refused.items():
        entry = entries.get(name)
        count += entry is not None and any(schema not in ("", entry.schema) for schema, _ in refusals)
    return count


def _fates(acknowledged: list[Entry], tables: TableContents) -> list[str]:
    """Good messages that were refused, by reason, and bad ones that were stored."""
    refused: Counter[str] = Counter()
    taken = 0
    for entry in acknowledged:
        if entry.fate == "stored" and entry.name not in tables.stored and entry.name in tables.refused:
            refused[tables.refused[entry.name][0][1]] += 1
        taken += entry.fate == "refused" and entry.name in tables.stored
    refusals = [f"{count} good messages refused: {reason}" for reason, count in sorted(refused.items())]
    return refusals + ([f"{taken} bad messages stored"] if taken else [])


def _conservation(tables: TableContents) -> list[str]:
    """received = stored + duplicates + quarantined + rate limited, and the totals agree with the tables."""
    differences = []
    for schema, totals in sorted(tables.totals.items()):
        parts = sum(totals[name] for name in ("stored", "duplicates", "quarantined", "rate_limited"))
        if totals["received"] != parts:
            differences.append(f"{schema}: {totals['received']} received, {parts} accounted for")
    counted = sum(totals["stored"] for totals in tables.totals.values())
    if counted != tables.rows:
        differences.append(f"the totals say {counted} stored, the archive holds {tables.rows}")
    return differences


def _readings(entries: dict[tuple[str, bytes], Entry], tables: TableContents) -> list[str]:
    """Each stored message has its readings, and no others are there."""
    stored = [entries[name].readings for name in tables.stored if name in entries]
    least = sum(number or 0 for number in stored)
    most = least + READINGS * stored.count(None)
    difference = f"{tables.readings} readings where {least} belong"
    return [] if least <= tables.readings <= most else [difference]
