"""The tables of docs/security-standards.md: every requirement once, with a known state and evidence that exists."""

import re
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.processes import ROOT

DOCUMENT = ROOT / "docs" / "security-standards.md"
STATES = {"met", "partly", "not met", "not applicable"}
_ROW = re.compile(r"^\| (?P<ids>[0-9.–, -]+) \| (?P<state>[a-z ]+) \| (?P<evidence>.+) \|$", re.MULTILINE)
# How many requirements of levels 1 and 2 each chapter of ASVS 5.0 has, but for OAuth and WebRTC, which are left out.
ASVS = {1: 27, 2: 11, 3: 19, 4: 10, 5: 9, 6: 35, 7: 18, 8: 7, 9: 7, 11: 14, 12: 9, 13: 13, 14: 9, 15: 13, 16: 16}
_PATH = re.compile(r"`([a-z_./-]+/[a-z_./-]*)`")


def rows() -> list[re.Match[str]]:
    return list(_ROW.finditer(DOCUMENT.read_text(encoding="utf-8")))


def of_asvs() -> Iterator[str]:
    text = DOCUMENT.read_text(encoding="utf-8").partition("## ETSI")[0]
    for match in _ROW.finditer(text):
        for part in match["ids"].split(", "):
            first, _, last = part.partition("–")
            section, _, number = first.rpartition(".")
            end = int(last.rpartition(".")[2]) if last else int(number)
            yield from (f"{section}.{each}" for each in range(int(number), end + 1))


def test_every_requirement_of_a_chapter_is_there_once() -> None:
    listed = [each for each in of_asvs() if each.count(".") == 2]
    assert [each for each, count in Counter(listed).items() if count > 1] == []
    assert Counter(int(each.split(".")[0]) for each in listed) == ASVS


def test_every_state_is_known_and_has_its_reason() -> None:
    assert {row["state"] for row in rows()} == STATES
    assert [row["ids"] for row in rows() if len(row["evidence"]) < 4] == []


@pytest.mark.parametrize("path", sorted({path for row in rows() for path in _PATH.findall(row["evidence"])}))
def test_evidence_exists(path: str) -> None:
    if path not in ("/t/", "var/log", "var/quickstart.json"):
        assert (ROOT / path).exists()
