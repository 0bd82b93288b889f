"""The fuzzed functions: each must return or raise a declared error, for 64 KiB in a few times what parsing takes."""

import json
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from devices.domain import paths
from devices.domain.metric_spec import MetricSpec
from devices.domain.specs import (
    IGNORE,
    KEEP,
    QUARANTINE,
    REFUSE_MESSAGE,
    REFUSE_VALUE,
    ComponentSpec,
    DeviceSpec,
    KeySpec,
    TenantSpec,
)
from telemetry.services.pipeline import contract, form, signature, validation
from telemetry.services.pipeline.normalization import normalize, read_timestamp
from telemetry.services.pipeline.results import Refusal

from . import inputs

# How many times as long as `json.loads` takes for as many bytes. The slowest inputs take about half of it.
MOST_PARSES = 8
_PARSED = "{" + ",".join(f'"k{i}":{i % 10}' for i in range(7000)) + "}"
# Below this the processor's caches decide more than the code does.
_SHORT_SECONDS = 0.010
_REPEATS = 7

NOW = datetime.fromisoformat(inputs.NOW_TEXT)
CLOCK = contract.ClockTolerance(timedelta(minutes=5), timedelta(minutes=5))
_NAMED = (("C", 1.0, 0.0), ("F", 5 / 9, -160 / 9))
_METRICS = (
    MetricSpec(
        "temperature", ("value", "temp"), "number", "°C", 5 / 9, -17.8, -40.0, 80.0, "", "", ("TempUnit",), _NAMED
    ),
    MetricSpec("humidity", ("value", "humidity"), "number", "%", minimum=0.0, maximum=100.0),
    MetricSpec("state", ("value", "state"), "boolean", "", true_value="ON", false_value="OFF"),
    MetricSpec("flag", ("value", "flag"), "boolean", ""),
    MetricSpec("name", ("AM2301", "Name"), "text", ""),
    MetricSpec("whole", ("value", "list"), "number", ""),
    MetricSpec("item", ("value", "list", "0"), "number", ""),
    MetricSpec("deep", ("value", "list", "1", "t"), "number", "", factor=1e300),
    MetricSpec("own", ("temp.x", "a/b", ""), "number", ""),
)
COMPONENTS = {
    policy: ComponentSpec(
        "dht22", "dht22", True, True, _METRICS, policy, REFUSE_MESSAGE if policy == IGNORE else REFUSE_VALUE
    )
    for policy in (KEEP, IGNORE, QUARANTINE)
}


def device(policy: str = KEEP, floor: int = 1) -> DeviceSpec:
    """The device that is fuzzed: with two valid keys, as in a rotation."""
    return DeviceSpec(
        tenant=TenantSpec("t_demo", "demo", frozenset({"demo"}), active=True),
        device_id=1,
        number=UUID(inputs.UUID).int,
        active=True,
        cpu_serial="c0ffee",
        hardware_version="1.4",
        min_signature_version=floor,
        components={"dht22": COMPONENTS[policy]},
        type_keys=frozenset({"dht22"}),
        keys=(KeySpec(2, None), KeySpec(1, None)),
        timeout_seconds=60.0,
        text_wills=floor == 2,
    )


DEVICES = [device(policy, floor) for policy in COMPONENTS for floor in (1, 2)]
TOPICS = [
    form.parse_topic(text)
    for text in (f"telemetry/demo/{inputs.UUID}/dht22", f"device/birth/{inputs.UUID}", f"device/lwt/{inputs.UUID}")
]


GATEWAY = replace(device(), number=UUID(inputs.GATEWAY).int, device_id=2)
CHILDREN = [replace(spec, gateway=GATEWAY.number) for spec in DEVICES]
CHILD_TOPIC = form.parse_topic(f"telemetry/demo/{inputs.GATEWAY}/{inputs.UUID}/dht22")


def key(version: int) -> bytes | None:
    return inputs.SECRET.encode() if version == 1 else b"another secret"


def _topics(rng: random.Random) -> Callable[[], Any]:
    text = inputs.topic(rng)
    return lambda: (form.parse_topic(text), form.publisher_of(text))


def _envelope(rng: random.Random) -> Callable[[], Any]:
    raw = inputs.torn(rng, inputs.as_bytes(rng, inputs.mutated(rng, rng.choice(_CORPUS))))

    def run() -> None:
        form.check_size(raw, inputs.LIMIT)
        form.is_token(raw)
        form.parse_object(raw)

    return run


def _signature(rng: random.Random) -> Callable[[], Any]:
    document = inputs.mutated(rng, rng.choice(_CORPUS))
    token = inputs.signed_v2(inputs.as_bytes(rng, document))
    roll = rng.random()
    raw = inputs.torn(rng, token) if roll < 0.7 else token if roll < 0.85 else inputs.as_bytes(rng, document)
    spec, now = rng.choice(DEVICES), NOW.astimezone(UTC)

    def run() -> None:
        with suppress(signature.BadToken):
            signature.key_id(raw)
        signature.verify(raw, spec, key, now)

    return run


def _normalization(rng: random.Random) -> Callable[[], Any]:
    document = inputs.mutated(rng, rng.choice(_CORPUS))
    message = document if isinstance(document, dict) else {"value": document}
    component = rng.choice(list(COMPONENTS.values()))

    def run() -> None:
        with suppress(Refusal):
            read_timestamp(message.get("timestamp"))
        for value in normalize(message, component).unmapped:
            assert 0 < len(value.metric) <= 63
            assert value.metric.isprintable()

    return run


def _pipeline(rng: random.Random) -> Callable[[], Any]:
    """Whole messages: signed as they should be and then perhaps torn, so that every stage sees some."""
    document = inputs.mutated(rng, rng.choice(_CORPUS))
    roll = rng.random()
    raw = inputs.as_bytes(rng, document)
    if roll < 0.45:
        raw = inputs.signed_v2(raw)
    elif roll < 0.9 and isinstance(document, dict):
        with suppress(ValueError, TypeError):
            raw = inputs.as_bytes(rng, inputs.signed_v1(json.loads(raw)))
    if rng.random() < 0.3:
        raw = inputs.torn(rng, raw)
    if rng.random() < 0.2:
        child = rng.choice(CHILDREN)
        at = NOW.astimezone(UTC)
        return lambda: validation.validate(CHILD_TOPIC, "a topic", raw, child, key, at, CLOCK, GATEWAY)
    spec, topic = rng.choice(DEVICES), rng.choice((TOPICS[0], TOPICS[0], *TOPICS))
    return lambda: validation.validate(topic, "a topic", raw, spec, key, NOW.astimezone(UTC), CLOCK)


def _paths(rng: random.Random) -> Callable[[], Any]:
    text = "".join(rng.choice(("a", ".", "/", "~", "0", "~1", "\x00", "가", "temp")) for _ in range(rng.randrange(9)))
    document = rng.choice(_CORPUS)

    def run() -> None:
        with suppress(ValueError):
            path = paths.parse(text)
            paths.find(document, path)
            assert paths.parse(paths.format_path(path)) == path

    return run


_CORPUS = inputs.corpus()
TARGETS: dict[str, Callable[[random.Random], Callable[[], Any]]] = {
    "topics": _topics,
    "envelope": _envelope,
    "signature": _signature,
    "normalization": _normalization,
    "pipeline": _pipeline,
    "paths": _paths,
}


class TooSlow(AssertionError):
    """It took longer than `MOST_PARSES` allow, however often it was tried."""


def attempt(name: str, seed: int) -> bool:
    """One input to one target: whether it was taken, rather than refused. Raises what may not happen.

    A run that is too slow is repeated, and its fastest counts: of the others something else may be the cause.
    """
    run = TARGETS[name](random.Random(f"{name}-{seed}"))
    began = time.thread_time()
    try:
        run()
        taken = True
    except Refusal:
        taken = False
    if time.thread_time() - began > _SHORT_SECONDS:
        check_time(run)
    return taken


def check_time(run: Callable[[], Any]) -> None:
    """Raise TooSlow for a run whose fastest repetition takes too long, measured in the thread's processor time.

    The parser it is compared with runs in between, since how fast the processor is depends on what else it does.
    """
    times, parsing = [], []
    for _ in range(_REPEATS):
        times.append(_seconds(run))
        parsing.append(_seconds(lambda: json.loads(_PARSED)))
    if min(times) > max(_SHORT_SECONDS, MOST_PARSES * min(parsing)):
        raise TooSlow(f"{1000 * min(times):.1f} ms; the parser takes {1000 * min(parsing):.1f} ms")


def _seconds(run: Callable[[], Any]) -> float:
    began = time.thread_time()
    with suppress(Refusal):
        run()
    return time.thread_time() - began
