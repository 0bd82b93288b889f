"""`python -m tests.fuzz.guided --seconds 3600`: led by which branches of the code an input reaches (atheris).

Raw bytes instead of mutated messages: what the other way, which knows what messages look like, does not think of. It
begins with messages of the corpus, ends at the first finding, and writes the input to `crash-…`. What an input costs in
time is not looked at: instrumented code is slower.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "platform"))

import atheris  # not needed otherwise: `make fuzz-guided` installs it

with atheris.instrument_imports(include=["telemetry.services", "devices.services"]):
    from devices.domain import paths
    from telemetry.services.pipeline import form, signature, validation
    from telemetry.services.pipeline.normalization import normalize, read_timestamp
    from telemetry.services.pipeline.results import Refusal

    from . import inputs, targets


def _topics(raw: bytes) -> None:
    text = raw.decode("utf-8", "backslashreplace")
    form.publisher_of(text)
    form.parse_topic(text)


def _envelope(raw: bytes) -> None:
    form.check_size(raw, inputs.LIMIT)
    form.is_token(raw)
    form.parse_object(raw)


def _signature(raw: bytes) -> None:
    for read in (signature.key_id, signature.unverified_payload):
        with suppress(signature.BadToken):
            read(raw)
    for spec in targets.DEVICES:
        with suppress(Refusal):
            signature.verify(raw, spec, targets.key, targets.NOW.astimezone(UTC))


def _normalization(raw: bytes) -> None:
    message = form.parse_object(raw)
    with suppress(Refusal):
        read_timestamp(message.get("timestamp"))
    for component in targets.COMPONENTS.values():
        with suppress(Refusal):
            normalize(message, component)


def _version_1(raw: bytes) -> None:
    message = form.parse_object(raw)
    with suppress(RecursionError):  # the signing itself
        _validate(json.dumps(inputs.signed_v1(message)).encode())


def _version_2(raw: bytes) -> None:
    _validate(inputs.signed_v2(raw))


def _validate(raw: bytes) -> None:
    for spec in targets.DEVICES:
        for topic in targets.TOPICS:
            with suppress(Refusal):
                now = targets.NOW.astimezone(UTC)
                validation.validate(topic, "a topic", raw, spec, targets.key, now, targets.CLOCK)


def _paths(raw: bytes) -> None:
    with suppress(ValueError):
        path = paths.parse(raw.decode("utf-8", "backslashreplace"))
        assert paths.parse(paths.format_path(path)) == path


# An input's first byte chooses among them.
_TARGETS: tuple[Callable[[bytes], Any], ...] = (
    _topics,
    _envelope,
    _signature,
    _normalization,
    _version_1,
    _version_2,
    _validate,
    _paths,
)


def one_input(data: bytes) -> None:
    """What libFuzzer calls: anything raised is a finding."""
    if data:
        with suppress(Refusal):
            _TARGETS[data[0] % len(_TARGETS)](data[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as corpus:
        for number, message in enumerate(inputs.corpus()):
            for target in range(len(_TARGETS)):
                (Path(corpus) / f"{target}-{number}").write_bytes(bytes([target]) + json.dumps(message).encode())
        atheris.Setup([sys.argv[0], f"-max_total_time={options.seconds}", "-timeout=10", corpus], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
