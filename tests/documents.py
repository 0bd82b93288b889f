"""Reading the documents: their links, their code, their tables."""

import re

import pytest

from tests.processes import ROOT

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)|<(https?://[^>\s]+)>")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def fenced(text: str, *languages: str) -> list[str]:
    """The fenced blocks, of those languages where some are named, each command on one line."""
    blocks = FENCED.findall(text)
    return [code.replace("\\\n", " ") for language, code in blocks if not languages or language in languages]


def spans(text: str) -> list[str]:
    """Everything that is set as code: fenced blocks line by line, and what is between backticks."""
    lines = [line for block in fenced(text) for line in block.splitlines()]
    return lines + INLINE.findall(FENCED.sub("", text))


def links(text: str) -> list[str]:
    prose = INLINE.sub("", FENCED.sub("", text))
    return [inline or bare for inline, bare in _LINK.findall(prose)]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def table(text: str, heading: str) -> dict[str, list[str]]:
    """The first table whose head begins with the words: its rows by what their first cell names as code."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(f"| {heading} |"):
            break
    else:
        pytest.fail(f"there is no table with the head {heading!r}")
    next(lines)
    rows: dict[str, list[str]] = {}
    for line in lines:
        if not line.startswith("|"):
            break
        first, *others = [cell.strip() for cell in line.strip("|").split("|")]
        rows |= dict.fromkeys(INLINE.findall(first), others)
    return rows
