"""The names of the API, the models and the modules, compared with docs/glossary.md."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.apps import apps
from django.core.management import call_command

from tests.documents import INLINE, read
from tests.processes import ROOT

APPS = ("tenants", "devices", "telemetry", "alarms")
_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")


def words(name: str) -> set[str]:
    """Return the words of a name in snake case, kebab case or camel case, in lower case."""
    return {word.lower() for word in _WORD.findall(name)}


def vocabulary() -> set[str]:
    """Return the words of the glossary: of the terms in its tables, and the plain ones."""
    text = read("docs/glossary.md")
    tables, _, plain = text.partition("\n## Plain words\n")
    terms = [code for row in re.findall(r"^\| (`.+?) \|", tables, re.MULTILINE) for code in INLINE.findall(row)]
    return set().union(*map(words, terms), *map(words, INLINE.findall(plain)))


def forms(word: str) -> set[str]:
    """Return the word with its singular and plural."""
    return {word, word.removesuffix("s"), word.removesuffix("es"), re.sub("ies$", "y", word), f"{word}s"}


def unknown(names: Iterator[str] | set[str]) -> dict[str, str]:
    """Return the words that the glossary does not have, singular or plural, each with a name that contains it."""
    known = vocabulary()
    return {word: name for name in names for word in words(name) if not forms(word) & known}


def members(schema: Any) -> Iterator[str]:
    """Yield the names of the properties anywhere in a part of an OpenAPI document."""
    if isinstance(schema, dict):
        properties = schema.get("properties")
        yield from properties if isinstance(properties, dict) else ()
        schema = list(schema.values())
    for part in schema if isinstance(schema, list) else ():
        yield from members(part)


def api_names(document: dict[str, Any]) -> Iterator[str]:
    """Yield the members, the parameters and the segments of the addresses of an OpenAPI document."""
    yield from members(document)
    for path, methods in document["paths"].items():
        yield from re.findall(r"[a-z][a-z0-9_-]*", re.sub(r"\{.*?\}", "", path))
        yield from (parameter["name"] for method in methods.values() for parameter in method.get("parameters", []))


@pytest.mark.parametrize("urlconf", ["config.urls", "config.urls_public"])
def test_the_glossary_has_the_names_of_the_api(urlconf: str, tmp_path: Path) -> None:
    file = tmp_path / "api.yaml"
    call_command("spectacular", urlconf=urlconf, file=str(file))
    assert unknown(set(api_names(yaml.safe_load(file.read_text(encoding="utf-8"))))) == {}


def test_the_glossary_has_the_names_of_the_models_and_their_fields() -> None:
    models = [model for app in APPS for model in apps.get_app_config(app).get_models()]
    fields = {field.name for model in models for field in model._meta.get_fields() if field.concrete}
    assert unknown({model.__name__ for model in models} | fields) == {}


@pytest.mark.parametrize("app", [*APPS, "management"])
def test_the_glossary_has_the_names_of_the_modules(app: str) -> None:
    paths = [path for path in (ROOT / app).rglob("*.py") if "migrations" not in path.parts]
    assert unknown({path.parent.name if path.name == "__init__.py" else path.stem for path in paths}) == {}


def test_no_term_is_defined_twice() -> None:
    rows = re.findall(r"^\| `(\w+)`", read("docs/glossary.md"), re.MULTILINE)
    assert sorted(rows) == sorted(set(rows))


def test_an_unknown_word_is_found() -> None:
    assert unknown({"frobnicated_at", "device"}) == {"frobnicated": "frobnicated_at"}
