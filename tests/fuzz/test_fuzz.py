"""Some malformed and random messages in every run; `python -m tests.fuzz` sends them for a given time."""

import json
from contextlib import suppress

import pytest

from telemetry.services.pipeline import validation

from . import inputs, targets

# Of each target so many, from a seed that is the same in every run: what fails here fails again.
_INPUTS = 2500


@pytest.mark.parametrize("name", targets.TARGETS)
def test_no_input_does_what_is_not_declared(name: str) -> None:
    taken = sum(targets.attempt(name, seed) for seed in range(_INPUTS))
    assert taken > _INPUTS // 20, "the inputs are not all refused at the door"


@pytest.mark.parametrize("name", inputs.heavy())
@pytest.mark.parametrize("version", ["unsigned", "badly signed", "signed 1", "signed 2"])
def test_64_kib_take_a_few_times_what_parsing_takes(name: str, version: str) -> None:
    raw = inputs.heavy()[name]
    if version == "signed 2":
        raw = inputs.signed_v2(raw)
    elif version != "unsigned":
        with suppress(ValueError, RecursionError):
            document = inputs.signed_v1(json.loads(raw))
            if version == "badly signed":
                document["hmac"] = "A" * 43 + "="
            raw = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    spec = targets.device()
    targets.check_time(
        lambda: validation.validate(targets.TOPICS[0], "a topic", raw, spec, targets.key, targets.NOW, targets.CLOCK)
    )


def test_a_run_that_grows_with_the_square_of_its_input_is_too_slow() -> None:
    names = [f"k{i}" for i in range(4000)]
    with pytest.raises(targets.TooSlow):
        targets.check_time(lambda: [names.index(name) for name in names])
