"""Dialects of off-the-shelf devices: data files that say which topics they use and what is in the payloads. Pure.

A rule has a `topic` in which `{publisher}` is one level, the device's name, and `{path}` one or more levels, which name
the value; and the `payload`: `object`, `scalar`, `senml`, `ruuvi` or `discovery`.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import decoders
from .decoders import UnreadablePayload
from .discovery import Discovery

DATA = Path(__file__).parent / "data"
_PLACEHOLDERS = {"{publisher}": "(?P<publisher>[^/]+)", "{path}": "(?P<path>.+)", "+": "[^/]+"}
_MAX_LEAVES = 64
_SWITCHES = frozenset({"on", "off"})


@dataclass(frozen=True)
class DialectReport:
    """Values of a publisher, as a member `value` of a message; `time` in Unix seconds, None: the time of arrival."""

    dialect: str
    publisher: str
    values: dict[str, Any]
    time: float | None = None
    units: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the name that is unique over all dialects, the `external_id` of the child."""
        return f"{self.dialect}:{self.publisher}"


class DialectRule:
    """One form of topic and payload of a dialect."""

    def __init__(self, dialect: str, given: Mapping[str, Any]) -> None:
        self.dialect, self.topic, self.payload = dialect, str(given["topic"]), str(given["payload"])
        self._match = _pattern_of(self.topic).fullmatch
        self._excepted = tuple(_pattern_of(text).fullmatch for text in given.get("except", ()))
        self._publisher, self._values, self._time = (
            tuple(given[name].split(".")) if name in given else () for name in ("publisher", "values", "time")
        )
        self._drop = frozenset(given.get("drop", ()))

    @property
    def filter(self) -> str:
        """Return the topic filter to subscribe to."""
        before, found, _ = self.topic.replace("{publisher}", "+").partition("{path}")
        return f"{before}#" if found else before

    def match(self, topic: str) -> re.Match[str] | None:
        """Return the parts of a topic of this form."""
        return None if any(excepted(topic) for excepted in self._excepted) else self._match(topic)

    def reports(self, parts: re.Match[str], payload: bytes, now: float) -> Iterator[DialectReport]:
        """Yield what the payload reports. Raises UnreadablePayload."""
        publisher = parts.groupdict().get("publisher", "")
        if self.payload == "scalar":
            value = decoders.read_scalar(payload)
            if value is not None:
                yield DialectReport(self.dialect, publisher, {parts["path"].replace("/", "."): value})
            return
        if self.payload == "senml":
            decoded = decoders.read_senml(payload, now)
            units = decoders.senml_units(payload)
            for values, time in decoded:
                yield DialectReport(self.dialect, publisher, values, time, units)
            return
        document = decoders.read_object(payload)
        values = decoders.read_ruuvi(document) if self.payload == "ruuvi" else _find(document, self._values)
        if not isinstance(values, dict):
            raise UnreadablePayload(f"the payload must have an object at {'.'.join(self._values)}")
        kept = {name: value for name, value in values.items() if name not in self._drop}
        time = _find(document, self._time) if self._time else None
        named = _find(document, self._publisher) if self._publisher else publisher
        if kept and isinstance(named, (str, int)):
            yield DialectReport(self.dialect, str(named), kept, time if isinstance(time, (int, float)) else None)


class Dialects:
    """The rules of several dialects, with what devices have announced by discovery."""

    def __init__(self, names: Sequence[str] | None = None) -> None:
        """Raises ValueError for a name without a data file."""
        known = available()
        unknown = sorted(set(names or ()) - set(known))
        if unknown:
            raise ValueError(f"unknown dialects: {', '.join(unknown)}; there are: {', '.join(known)}")
        self.files = {name: json.loads((DATA / f"{name}.json").read_text()) for name in names or known}
        self.rules = [DialectRule(name, given) for name, file in self.files.items() for given in file["rules"]]
        self.discovery = Discovery()

    def filters(self) -> list[str]:
        """Return the topic filters to subscribe to, those of discovered topics included."""
        return sorted({rule.filter for rule in self.rules} | set(self.discovery.topics))

    def read(self, topic: str, payload: bytes, now: float) -> list[DialectReport]:
        """Return what a message reports; empty for a topic of no dialect. Raises UnreadablePayload."""
        for rule in self.rules:
            parts = rule.match(topic)
            if parts is None:
                continue
            if rule.payload == "discovery":
                self.discovery.learn(decoders.read_object(payload) if payload else {}, topic, self._is_known)
                return []
            return list(rule.reports(parts, payload, now))
        values = self.discovery.read(topic, payload)
        return [DialectReport("homeassistant", publisher, found) for publisher, found in values.items()]

    def _is_known(self, topic: str) -> bool:
        return any(rule.payload != "discovery" and rule.match(topic) for rule in self.rules)

    def contract(self, report: DialectReport) -> dict[str, Any]:
        """Return the component type that would receive such reports: its key, its name, and its metrics."""
        rules = self.files.get(report.dialect, {}).get("metrics", ())
        units = {**self.discovery.units_of(report.publisher), **report.units}
        metrics = []
        for path, value in _leaves(report.values):
            given = _metric_rule(rules, path, value)
            if given is None and (".".join(path) in units or _is_switch(value)):
                given = {"unit": units[".".join(path)]} if ".".join(path) in units else {}
            if given is not None:
                metrics.append(_metric(path, value, given))
        digest = hashlib.sha256(json.dumps(metrics, sort_keys=True).encode()).hexdigest()[:8]
        return {
            "key": f"{report.dialect}-{digest}",
            "name": f"{self.files.get(report.dialect, {}).get('name', report.dialect)} {digest}",
            "metrics": metrics,
        }


def available() -> list[str]:
    """Return the names of all dialects."""
    return sorted(path.stem for path in DATA.glob("*.json"))


def _pattern_of(topic: str) -> re.Pattern[str]:
    parts = re.split(r"(\{publisher\}|\{path\}|\+)", topic)
    return re.compile("".join(_PLACEHOLDERS.get(part) or re.escape(part) for part in parts))


def _find(document: Any, path: Sequence[str]) -> Any:
    for name in path:
        document = document.get(name) if isinstance(document, dict) else None
    return document


def _leaves(values: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Return the first values of a document, with their paths."""
    found: list[tuple[tuple[str, ...], Any]] = []
    children = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for name, value in children:
        if isinstance(value, (dict, list)):
            found += _leaves(value, (*path, str(name)))
        elif value is not None:
            found.append(((*path, str(name)), value))
    return found[:_MAX_LEAVES]


def _metric_rule(rules: Sequence[Mapping[str, Any]], path: Sequence[str], value: Any) -> Mapping[str, Any] | None:
    """Return the rule for a path: `*` is any part of a name, and the last names of the path decide.

    A rule with `below` is that of smaller numbers only: devices send volts and millivolts under one name.
    """
    for rule in rules:
        if "below" in rule and not (isinstance(value, int | float) and value < rule["below"]):
            continue
        wanted = rule["path"].split("/")
        if len(wanted) <= len(path) and all(
            re.fullmatch(re.escape(name).replace(r"\*", ".*"), given)
            for name, given in zip(wanted, path[len(path) - len(wanted) :], strict=True)
        ):
            return rule
    return None


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and value.lower() in _SWITCHES)


def _is_number(text: str) -> bool:
    """Return whether the text is a number: the platform reads it as one, where the metric has a unit."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _metric(path: Sequence[str], value: Any, rule: Mapping[str, Any]) -> dict[str, Any]:
    is_text = isinstance(value, str) and not ("unit" in rule and _is_number(value))
    kind = "boolean" if _is_switch(value) or "true_value" in rule else "text" if is_text else "number"
    if kind == "boolean" and isinstance(value, str) and "true_value" not in rule:
        words = ("ON", "OFF") if value.isupper() else ("on", "off")
        rule = {**rule, "true_value": words[0], "false_value": words[1]}
    pointer = "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in ("value", *path))
    key = re.sub(r"[^a-z0-9]+", "_", "_".join(path).lower()).strip("_")[:63] or "value"
    metric = {"key": key, "path": pointer, "value_type": kind}
    names = ("unit", "unit_path", "true_value", "false_value") if kind != "text" else ()
    return metric | {name: rule[name] for name in names if name in rule and (kind == "number" or "value" in name)}
