"""The path of one accepted message through the listener: the files that run, and the order of the steps."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Self

import pytest

from tests.conftest import ROOT, Registered
from tests.mqtt import RawClient
from tests.payloads import topic, v2

# The steps in the order of the picture in README.md, each with the function that begins it.
STEPS = (
    ("form", "telemetry/services/pipeline/form.py", "parse_topic"),
    ("routing", "telemetry/services/lookups/routing.py", "routes"),
    ("signature", "telemetry/services/pipeline/signature.py", "verify"),
    ("contract", "telemetry/services/pipeline/contract.py", "check_binding"),
    ("normalization", "telemetry/services/pipeline/normalization.py", "normalize"),
    ("limits", "telemetry/services/limits/limiter.py", "admit"),
    ("storage", "telemetry/services/storage/tenant_writer.py", "send"),
    ("presence", "devices/services/presence/activity.py", "record"),
    ("acknowledgement", "telemetry/services/mqtt/session.py", "acknowledge"),
)
MAX_FILES = 28
AFTER_SIGNATURE = frozenset({"telemetry/services/pipeline/contract.py", "telemetry/services/limits/buckets.py"})
# What `Limiter.flush` calls about twice a second, whether a message has arrived or not: it takes no token.
FLUSH_FUNCTIONS = frozenset({"classes", "set_share", "drop_idle", "<dictcomp>"})
_APPS = tuple(f"{ROOT / app}/" for app in ("tenants", "devices", "telemetry", "alarms"))
_MESSAGES = 12


class CallRecorder:
    """Records the calls of the project's functions in this thread, as (file, function), in their order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        sys.setprofile(self._on_event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    @property
    def files(self) -> set[str]:
        return {file for file, _ in self.calls}

    def _on_event(self, frame: FrameType, event: str, _argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(_APPS):
            self.calls.append((str(Path(code.co_filename).relative_to(ROOT)), code.co_name))


@pytest.fixture
def listener(live_db: None) -> Iterator[Any]:
    from telemetry.services.ingest.batch_pipeline import build_pipeline
    from telemetry.services.ingest.listener import Listener

    made = Listener(build_pipeline(), client_id="test-message-path")
    yield made
    made.drain(1.0)


def process(listener: Any, count: int = 1) -> None:
    """Run the listener until it has processed this many more messages."""
    wanted, deadline = listener.processed + count, time.monotonic() + 60
    while listener.processed < wanted:
        assert time.monotonic() < deadline, "the message did not arrive"
        listener.run_once(0.05)


@pytest.fixture
def recorded(listener: Any, register: Callable[..., Registered]) -> list[CallRecorder]:
    """The calls of several messages of one device, from `Listener.run_once` to the acknowledgement."""
    pipeline, device, recorders = listener._pipeline, register(), []
    for _ in range(5):
        listener.run_once(0.05)
    with RawClient(device.uuid, device.mqtt_password) as client:
        for seq in range(1, _MESSAGES + 1):
            if seq == _MESSAGES:  # so that form runs: the parts of an accepted message's topic are cached
                pipeline.preparer.topics.clear()
            client.publish_acknowledged(topic(device), v2(device, {"temp": 21.5}, seq=seq))
            with CallRecorder() as recorder:
                process(listener)
            recorders.append(recorder)
            if seq == 1:  # from now on the device's key in use is known
                pipeline.tick(last=True)
                pipeline.router.forget()
    return recorders[2:]  # the first ones make the device, its key and its series known


def test_a_message_passes_few_files(recorded: list[CallRecorder]) -> None:
    """Files that every message passes; what is only due now and then is not in all of them."""
    files = set.intersection(*(recorder.files for recorder in recorded))
    assert len(files) <= MAX_FILES, "\n".join(sorted(files))


def test_the_steps_run_in_the_documented_order(recorded: list[CallRecorder]) -> None:
    calls = recorded[-1].calls
    # Presence also has chores before a batch is due: its step is the last call of all.
    last = len(calls) - 1 - calls[::-1].index(STEPS[-2][1:])
    places = [last if step == "presence" else calls.index((file, name)) for step, file, name in STEPS]
    assert places == sorted(places)


def test_neither_contract_nor_limits_run_before_the_signature(recorded: list[CallRecorder]) -> None:
    """Only a verified message is compared with its hardware, and uses up a limit."""
    for recorder in recorded:
        before = recorder.calls[: recorder.calls.index(STEPS[2][1:])]
        early = {(file, name) for file, name in before if file in AFTER_SIGNATURE and name not in FLUSH_FUNCTIONS}
        assert not early, sorted(early)
