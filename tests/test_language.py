"""The wording of code, documents and pages: constructions that the project does not use."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from tests.documents import FENCED, INLINE
from tests.processes import ROOT

SOURCES = ("tenants", "devices", "telemetry", "alarms", "management", "platform", "tests")

_BE = "(?:is|are|was|were|be|been|being)"
# Construction → wording to use instead.
CONSTRUCTIONS: dict[str, str] = {
    rf"\bwho(?:m|se)? {_BE} (?:killed|told|asked|shut|let|held|refused)\b": "'a process that dies', 'a client'",
    r"\b(?:of|to|from|for|by|than|when|where|while|if) who\b(?! may| can| did| does)": "'a client', 'a user'",
    r"\b(?:whoever|whomever)\b": "'a client', 'a user', 'any process'",
    r"\b(?:nobody(?![\"'`])|somebody|anybody|everybody)\b": "'no client', 'a user', 'all users'; or the passive",
    rf"\b{_BE} (?:not )?told\b": "'receives', 'is published'",
    rf"\b{_BE} (?:not )?asked\b": "'receives a request', 'is queried'",
    r"\btakes? no more\b": "'rejects'",
    rf"\bwhat {_BE} (?:held|kept|refused|stored|parked|taken|put|told|asked|due|over)\b": "a noun: 'held messages'",
    r"\bdear(?:er|est|ly)?\b": "'expensive'",
    rf"\b(?:{_BE}|while|when) away\b": "'unavailable'",
    r"\btheirs\b": "a noun",
    r"\bsigns? of life\b": "'activity'",
    r"\b(?:judge[sd]?|judging|verdicts?)\b": "'validate', 'evaluate'; 'result'",
    r"\bparked\b": "'deferred'",
    r"\btime-outs?\b": "'timeout'",
    r"\b(?:put|puts|putting) aside\b|\btaken back\b": "'overflow', 'restored'",
    r"\b(?:taught by|teaching by) example\b": "'metric mapping'",
    r"(?<!\s)(?<!there)\s+(?:is|are) no (?!longer\b|more\b|less\b)\w+": "a rule: 'must', 'cannot', 'is not a valid …'",
    r"'\w+' is (?:before|after|at most|at least) ": "a rule: 'must be'",
}

# Names with a private meaning, or with none. They are compared without leading underscores.
NAMES = frozenset(
    {
        *("judge", "Judge", "judging", "Judged", "verdict", "Verdict", "RecordJudge"),
        *("put_aside", "taking_back", "risen", "floor_changes", "signature_floor", "Wish", "Lane", "keep_latest"),
        *("TenantFigures", "Chosen", "TooMuchWork", "FloodGuard", "Sorter", "Storer", "Tally", "Settled"),
        *("untold", "Quiet", "why_quiet", "LoginDesk", "LoginGuard", "BrokerApp", "AlreadyFetched", "free_board"),
        *("look_through", "carry_out", "Lack", "lacks", "timeout_from", "seconds_lefttoday"),
        *("Held", "Sending", "Told", "Tell", "told", "tell", "Known", "Outcomes", "Sign", "signs", "aside"),
        *("deaf", "stepped", "doubt", "floors", "flood", "floods", "guesses", "heat", "hints", "parked", "too_many"),
        *("trying", "upkeep", "effort", "choosing", "adoption", "teaching", "ledger", "scene", "books"),
        *("of", "without", "together", "drawn", "asked_again", "judged", "adopted", "poison"),
    }
)
# Names that only tests use.
NAMES_OF_TESTS = frozenset({"heard", "asked", "said", "quiet"})


def python_files() -> list[Path]:
    """Return the project's Python files, without migrations and this module."""
    found = [path for folder in SOURCES for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if "migrations" not in path.parts and path != Path(__file__))


def prose_of_python(source: str) -> Iterator[tuple[int, str]]:
    """Yield the comments and strings with the line in which each begins."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING) or tokenize.tok_name[token.type] == "FSTRING_MIDDLE":
            yield token.start[0], token.string


def prose_of_markdown(text: str) -> Iterator[tuple[int, str]]:
    """Yield the paragraphs without code, with the line in which each begins."""
    without_code = FENCED.sub(lambda match: "\n" * match[0].count("\n"), text)
    line = 1
    for paragraph in without_code.split("\n\n"):
        yield line, INLINE.sub("`…`", paragraph)
        line += paragraph.count("\n") + 2


def prose_files() -> list[Path]:
    """Return documents, templates, scripts and comments of the deployment."""
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    pages = [*(ROOT / "templates").rglob("*.*"), *(ROOT / "static" / "gwanje").rglob("*.js")]
    deployment = [path for path in (ROOT / "deploy").rglob("*") if path.is_file()]
    return sorted([*documents, *pages, *deployment, ROOT / "Makefile"])


def findings(path: Path) -> list[str]:
    """Return the constructions in a file that the project does not use, each with its line and the wording to use."""
    text = path.read_text(encoding="utf-8")
    # Splitting a text costs more than searching it, and few files have one of them even in their code.
    if path.suffix == ".py" and not any(re.search(pattern, text, re.IGNORECASE) for pattern in CONSTRUCTIONS):
        return []
    pieces = prose_of_python(text) if path.suffix == ".py" else prose_of_markdown(text)
    return [
        f"{path.relative_to(ROOT)}:{line + piece.count(chr(10), 0, match.start())}: {match[0]!r}: use {instead}"
        for line, piece in pieces
        for pattern, instead in CONSTRUCTIONS.items()
        for match in re.finditer(pattern, piece, re.IGNORECASE)
    ]


@dataclass
class Module:
    """The parts of a module whose wording is checked; names and texts with their lines."""

    docstring: str = ""
    names: list[tuple[int, str]] = field(default_factory=list)
    help_texts: list[tuple[int, str]] = field(default_factory=list)


@cache
def module(name: str) -> Module:
    """Return the parts of the module at the path; each module is read once for all tests."""
    return parts_of((ROOT / name).read_text(encoding="utf-8"))


def parts_of(source: str) -> Module:
    """Return the docstring, the names that the module defines, and the constant help texts of fields.

    Names are those of classes, functions, parameters, variables and attributes; help texts also translated ones.
    """
    tree = ast.parse(source)
    found = Module(ast.get_docstring(tree) or "")
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.names.append((node.lineno, node.name))
        elif isinstance(node, ast.arg):
            found.names.append((node.lineno, node.arg))
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.names.append((node.lineno, node.id))
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.names.append((node.lineno, node.attr))
        elif isinstance(node, ast.keyword) and node.arg == "help_text":
            value = node.value.args[0] if isinstance(node.value, ast.Call) and node.value.args else node.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                found.help_texts.append((value.lineno, value.value))
    return found


def of_files(files: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in files]


@pytest.mark.parametrize("name", of_files([*prose_files(), *python_files()]))
def test_no_file_has_a_construction_that_the_project_does_not_use(name: str) -> None:
    assert findings(ROOT / name) == []


@pytest.mark.parametrize("name", of_files(python_files()))
def test_names_are_the_terms_of_the_field(name: str) -> None:
    assert [found for found in module(name).names if found[1].lstrip("_") in NAMES] == []


@pytest.mark.parametrize("name", [name for name in of_files(python_files()) if not name.startswith("tests/")])
def test_names_of_the_product_are_nouns(name: str) -> None:
    assert [found for found in module(name).names if found[1].lstrip("_") in NAMES_OF_TESTS] == []


@pytest.mark.parametrize("name", of_files(python_files()))
def test_help_texts_begin_with_no_free_relative(name: str) -> None:
    assert [found for found in module(name).help_texts if re.match(r"(?:What|Who|Whose|How|When)\b", found[1])] == []


@pytest.mark.parametrize("name", of_files(python_files()))
def test_module_docstrings_say_what_the_module_contains(name: str) -> None:
    docstring = module(name).docstring
    assert not re.match(r"(?:What|How|Who|Whoever)\b", docstring), docstring.splitlines()[0]


def test_the_constructions_are_found_where_they_are() -> None:
    assert parts_of('f(help_text=_("What it is for."))').help_texts == [(1, "What it is for.")]
    assert parts_of('"""What."""\ndef put_aside(lane): self.told = 1').names == [
        (2, "put_aside"),
        (2, "lane"),
        (2, "told"),
    ]
    assert list(prose_of_python("x = 1  # Redis is away\n")) == [(1, "# Redis is away")]
    for text in ("Vault is away.", "'5x' is no interval.", "Whoever asks", "a sign of life", "you are no member"):
        assert any(re.search(pattern, text, re.IGNORECASE) for pattern in CONSTRUCTIONS), text
    for text in ("There is no metric here.", "It is no longer valid.", "Who may do what"):
        assert not any(re.search(pattern, text, re.IGNORECASE) for pattern in CONSTRUCTIONS), text
