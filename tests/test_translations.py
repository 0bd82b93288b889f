"""The Korean catalogue: nothing is missing in it, nothing is left over, and it is compiled."""

import gettext
import importlib.util
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.contrib.humanize.templatetags.humanize import naturaltime
from django.utils import timezone, translation

from devices.models.access import ACTIONS
from tests.translation_catalogue import ROOT, Entry, of_python, of_template, read_po, wanted

KO = ROOT / "locale" / "ko" / "LC_MESSAGES"
ENTRIES = [entry for entry in read_po(KO / "django.po") if entry.text]
HANGUL = re.compile(r"[가-힣]")
# These are written the same in both languages.
SAME = {"UUID", "Cron", "ISO 8601"}

_PERCENT = re.compile(r"%(?:\(\w+\))?[#0 +-]*\d*(?:\.\d+)?[srdif]")
_BRACES = re.compile(r"\{\w*(?::\w+)?\}")


def test_every_text_of_the_interface_is_in_the_catalogue_and_no_other() -> None:
    code, catalogue = wanted(), {entry.key for entry in ENTRIES}
    missing = {key: str(path.relative_to(ROOT)) for key, path in code.items() if key not in catalogue}
    assert not missing, "make messages, and translate these"
    assert not catalogue - code.keys(), "make messages takes these out"


def test_every_referenced_file_exists() -> None:
    references = re.findall(r"^#: (.+)$", (KO / "django.po").read_text(encoding="utf-8"), re.MULTILINE)
    files = {place.rpartition(":")[0] or place for line in references for place in line.split()}
    assert len(files) > 50
    assert not [name for name in sorted(files) if not (ROOT / name).is_file()], "make messages updates these"


def test_every_entry_is_translated() -> None:
    assert not [entry.key for entry in ENTRIES if entry.fuzzy or not all(entry.forms)]
    untranslated = [e.text for e in ENTRIES if not all(HANGUL.search(form) for form in e.forms)]
    assert set(untranslated) <= SAME


def test_placeholders_are_the_same() -> None:
    def wrong(entry: Entry) -> bool:
        return any(_placeholders(form) != _placeholders(entry.plural or entry.text) for form in entry.forms)

    assert not [(entry.text, entry.forms) for entry in ENTRIES if wrong(entry)]


def _placeholders(text: str) -> set[str]:
    return {*_PERCENT.findall(text), *_BRACES.findall(text)}


def test_what_is_compiled_is_what_is_written() -> None:
    with (KO / "django.mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    for entry in ENTRIES:
        if entry.plural:
            assert compiled.ngettext(entry.text, entry.plural, 2) == entry.forms[0], "make messages compiles it"
        elif entry.context:
            assert compiled.pgettext(entry.context, entry.text) == entry.forms[0], "make messages compiles it"
        else:
            assert compiled.gettext(entry.text) == entry.forms[0], "make messages compiles it"
    held: dict[Any, str] = compiled._catalog  # type: ignore[attr-defined]
    assert len([key for key in held if key]) == len(ENTRIES), "make messages compiles it"


def test_a_korean_time_has_no_space_between_number_and_unit() -> None:
    now = timezone.now()
    with translation.override("ko"):
        for seconds, shown in ((2, "2초"), (60, "1분"), (150, "2분"), (3600 * 3, "3시간")):
            assert naturaltime(now - timedelta(seconds=seconds)) == f"{shown} 전"


def test_texts_of_libraries_are_still_theirs() -> None:
    sources = "".join(_sources(library) for library in ("django", "unfold", "django_q", "rest_framework"))
    ours = (ROOT / "platform/config/library_texts.py").read_text(encoding="utf-8")
    assert not [text for _context, text, _plural in of_python(ours) if _spelt(text) not in sources]


def _sources(library: str) -> str:
    found = importlib.util.find_spec(library)
    assert found is not None
    assert found.origin is not None
    files = [path for path in Path(found.origin).parent.rglob("*") if path.suffix in (".py", ".html")]
    return _spelt("".join(path.read_text(encoding="utf-8") for path in files))


def _spelt(text: str) -> str:
    """Without what differs between a text and how a source or a template spells it."""
    return re.sub(r"""[\\"'\s]""", "", re.sub(r"%\((\w+)\)s|\{\{ (\w+) \}\}", r"<\1\2>", text))


def test_what_is_recorded_as_done_has_a_word() -> None:
    sources = "".join(
        path.read_text() for app in ("devices", "telemetry", "alarms") for path in (ROOT / app).rglob("*.py")
    )
    recorded = set(re.findall(r'audit\.record\([\w.]+(?:\([^)]*\))?, "([^"]+)"', sources))
    assert recorded > {"add", "change", "rotate key"}
    assert recorded <= ACTIONS.keys()


def test_the_reader_of_sources_finds_what_there_is() -> None:
    python = '_("a"); _t("b"); ngettext("c", "d", n); pgettext("e", "f"); _(name); other("g")'
    assert list(of_python(python)) == [("", "a", ""), ("", "b", ""), ("", "c", "d"), ("e", "f", "")]
    template = (
        """{% translate "it's" %}{% translate 'b' as c %}{% translate "d" context "e" %}"""
        "{% blocktranslate with x=y.z trimmed %}\n  one\n  {{ x }}\n{% endblocktranslate %}"
        "{% blocktranslate count n=m %}{{ n }} f{% plural %}{{ n }} fs{% endblocktranslate %}"
        """{{ x|default:_("g (h)") }}"""
    )
    assert list(of_template(template)) == [
        ("", "g (h)", ""),
        ("", "it's", ""),
        ("", "b", ""),
        ("e", "d", ""),
        ("", "one %(x)s", ""),
        ("", "%(n)s f", "%(n)s fs"),
    ]
