"""The cost of the hardware contract for a message: validation and normalization, beside a plain implementation.

The plain way looks at each thing when it needs it: it flattens the message into a dict of paths, looks every metric
up in it, and compares what is left over with the paths of the metrics. Both must say the same of every message.
"""

import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from devices.domain.metric_spec import MetricSpec
from devices.domain.paths import CLAIMS, PROTOCOL_MEMBERS, Path
from devices.domain.specs import ComponentSpec, DeviceSpec, KeySpec, TenantSpec
from telemetry.services.pipeline import contract, form, normalization, validation
from telemetry.services.pipeline.normalization import NormalizedValues
from telemetry.services.pipeline.results import Refusal, Topic

_SERIAL, _VERSION = "10000000a1b2c3d4", "1.4"
_MESSAGES = 200
_CLOCK = contract.ClockTolerance(live=timedelta(minutes=5), future=timedelta(minutes=5))
_BUDGET_US = 15.0

_METRICS = (
    MetricSpec("temperature", ("value", "temp"), "number", "°C", minimum=-40.0, maximum=80.0),
    MetricSpec("humidity", ("value", "humidity"), "number", "%", minimum=0.0, maximum=100.0),
    MetricSpec("co2", ("value", "co2"), "number", "ppm", minimum=0.0, maximum=10000.0),
)
_CONVERTED = (
    MetricSpec("temperature", ("value", "temp"), "number", "°C", factor=5 / 9, offset=-160 / 9),
    *_METRICS[1:],
)

Validator = Callable[[Topic, dict[str, Any], DeviceSpec, datetime], tuple[datetime, bool, NormalizedValues]]


def run(*, devices: int, repeats: int) -> dict[str, Any]:
    """Measure, verify and return the figures. Raises AssertionError where the two ways do not say the same."""
    now = datetime.now(UTC)
    cases = {
        "three_metrics": (_METRICS, {}),
        "three_metrics_one_converted": (_CONVERTED, {}),
        "three_metrics_and_three_unmapped": (_METRICS, {"rssi": -60, "fw": {"build": 7}, "label": "north"}),
    }
    figures: dict[str, Any] = {"budget_us": _BUDGET_US, "cases": {}}
    for name, (metrics, more) in cases.items():
        spec = _device(uuid4(), metrics)
        topic = form.parse_topic(f"telemetry/demo/{spec.uuid}/air")
        messages = [_message(spec, now, number, more) for number in range(_MESSAGES)]
        _verify(topic, messages, spec, now)
        figures["cases"][name] = _compare(topic, messages, spec, now, repeats)
    figures["within_budget"] = figures["cases"]["three_metrics"]["microseconds"] <= _BUDGET_US
    figures["memory"] = _memory(devices)
    return figures


def validate(
    topic: Topic, message: dict[str, Any], spec: DeviceSpec, now: datetime
) -> tuple[datetime, bool, NormalizedValues]:
    """Return the results of steps 4 and 5, with the check of routing that belongs to step 2."""
    validation.check_routing(spec)
    moment, late = contract.check_time(message, now, _CLOCK)
    contract.check_board(message, spec)
    return moment, late, normalization.normalize(message, contract.check_component(topic, message, spec))


def validate_plainly(
    topic: Topic, message: dict[str, Any], spec: DeviceSpec, now: datetime
) -> tuple[datetime, bool, NormalizedValues]:
    """The same for valid messages: an invalid one is refused without a text."""
    moment = datetime.fromisoformat(message["timestamp"]).astimezone(UTC)
    component = next((one for one in spec.components.values() if one.key == topic.component), None)
    refused = [
        topic.segment not in spec.tenant.segments,
        not spec.tenant.active or not spec.active,
        moment > now + _CLOCK.future,
        spec.cpu_serial and message.get("cpu_serial") != spec.cpu_serial,
        message.get("hardware_version", spec.hardware_version) != spec.hardware_version,
        component is None or not component.attached or not component.allowed,
    ]
    if any(refused) or component is None:
        raise Refusal("malformed", "")
    flat = dict(_flatten(message, ()))
    measured = []
    for metric in component.metrics:
        if metric.path in flat:
            value = flat.pop(metric.path)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise Refusal("wrong_type", "")
            number = float(value)
            if metric.conversion is not None:
                number = metric.conversion.apply(value)
            if metric.minimum is not None and number < metric.minimum:
                raise Refusal("out_of_range", "")
            if metric.maximum is not None and number > metric.maximum:
                raise Refusal("out_of_range", "")
            measured.append(normalization.Measurement(metric.key, number, metric.unit, metric.value_type))
    kinds = {bool: "boolean", str: "text"}
    unmapped = [
        normalization.Measurement(
            ".".join(path), value if type(value) in kinds else float(value), "", kinds.get(type(value), "number")
        )
        for path, value in flat.items()
        if path[0] not in PROTOCOL_MEMBERS | CLAIMS and value is not None
    ]
    return moment, moment < now - _CLOCK.live, NormalizedValues(measured, unmapped)


def _flatten(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict):
        for token, below in value.items():
            yield from _flatten(below, (*path, token))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from _flatten(below, (*path, str(index)))
    else:
        yield path, value


def _verify(topic: Topic, messages: list[dict[str, Any]], spec: DeviceSpec, now: datetime) -> None:
    for number, message in enumerate(messages):
        found = validate(topic, message, spec, now)
        assert found == validate_plainly(topic, message, spec, now), (found, message)
        humidity = next(value for value in found[2].measurements if value.metric == "humidity")
        assert humidity == ("humidity", 40.0 + number % 20, "%", "number"), humidity
        assert len(found[2].measurements) == 3, found


def _compare(
    topic: Topic, messages: list[dict[str, Any]], spec: DeviceSpec, now: datetime, repeats: int
) -> dict[str, float]:
    """Microseconds a message, both ways by turns, so that what else the machine does falls on both."""
    ours, plain = [], []
    for _ in range(repeats):
        ours.append(_time(validate, topic, messages, spec, now))
        plain.append(_time(validate_plainly, topic, messages, spec, now))
    return {
        "microseconds": round(statistics.median(ours), 2),
        "fastest_microseconds": round(min(ours), 2),
        "plain_microseconds": round(statistics.median(plain), 2),
        "times_faster": round(statistics.median(plain) / statistics.median(ours), 2),
    }


def _time(way: Validator, topic: Topic, messages: list[dict[str, Any]], spec: DeviceSpec, now: datetime) -> float:
    began = time.process_time()
    for _ in range(10):
        for message in messages:
            way(topic, message, spec, now)
    return 1e6 * (time.process_time() - began) / (10 * len(messages))


def _message(spec: DeviceSpec, now: datetime, number: int, more: dict[str, Any]) -> dict[str, Any]:
    return {
        "timestamp": (now - timedelta(seconds=number)).isoformat(),
        "cpu_serial": spec.cpu_serial,
        "hardware_version": _VERSION,
        "value": {"temp": 20.0 + number / 10, "humidity": 40 + number % 20, "co2": 400.5 + number},
        **more,
        "hmac": "v" * 44,
    }


_TENANT = TenantSpec("t_demo", "demo", frozenset({"demo"}), active=True)
_TYPES, _KEYS = frozenset({"air"}), (KeySpec(1, None),)


def _device(
    uuid: UUID, metrics: tuple[MetricSpec, ...], components: dict[str, ComponentSpec] | None = None
) -> DeviceSpec:
    if components is None:
        components = {"air": ComponentSpec("air", "air", attached=True, allowed=True, metrics=metrics)}
    return DeviceSpec(
        tenant=_TENANT,
        device_id=uuid.int % 2**62,
        number=uuid.int,
        active=True,
        cpu_serial=_SERIAL if metrics else f"{uuid.int % 2**64:016x}",
        hardware_version=_VERSION,
        min_signature_version=1,
        components=components,
        type_keys=_TYPES,
        keys=_KEYS,
        timeout_seconds=60.0,
    )


def _memory(devices: int) -> dict[str, float]:
    """What the specifications of a fleet take in memory, its devices sharing what the loader shares."""
    shared = _device(uuid4(), _METRICS).components
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    cached = {uuid: _device(uuid, (), shared) for uuid in (uuid4() for _ in range(devices))}
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(cached) == devices
    return {"devices": devices, "bytes_per_device": round(taken / devices), "megabytes": round(taken / 1e6, 1)}
