"""The texts for translation in code and templates, and the content of a .po file, read without gettext tools."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_PLACES = ("alarms", "devices", "management", "platform", "telemetry", "tenants", "templates")
_LEFT_OUT = ("management/simulator/", "management/device_client/")

# Function → which arguments are (context, text, plural).
_CALLS: dict[str, tuple[int | None, int, int | None]] = {
    **dict.fromkeys(("_", "_t", "gettext", "gettext_lazy", "gettext_noop"), (None, 0, None)),
    **dict.fromkeys(("ngettext", "ngettext_lazy"), (None, 0, 1)),
    **dict.fromkeys(("pgettext", "pgettext_lazy"), (0, 1, None)),
    **dict.fromkeys(("npgettext", "npgettext_lazy"), (0, 1, 2)),
}
_TRANSLATE = re.compile(r"""\{%\s*trans(?:late)?\s+(?P<quote>["'])(?P<text>.*?)(?P=quote)(?P<rest>[^%]*)%\}""")
_BLOCK = re.compile(
    r"\{%\s*blocktrans(?P<late>late)?\b(?P<options>[^%]*)%\}(?P<body>.*?)\{%\s*endblocktrans(?:late)?\s*%\}", re.DOTALL
)
_ARGUMENT = re.compile(r"""\{[{%][^{}]*?_\((?P<quote>["'])(?P<text>.*?)(?P=quote)\)""")
_PLURAL = re.compile(r"\{%\s*plural\s*%\}")
_VARIABLE = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_CONTEXT = re.compile(r"""\bcontext\s+["'](.*?)["']""")

Key = tuple[str, str, str]  # context, text, plural; "" for none


@dataclass(slots=True)
class Entry:
    """One entry of a .po file; `forms` has more than one for a language with plurals."""

    context: str = ""
    text: str = ""
    plural: str = ""
    forms: list[str] = field(default_factory=list)
    fuzzy: bool = False

    @property
    def key(self) -> Key:
        return self.context, self.text, self.plural


def wanted() -> dict[Key, Path]:
    """Every text that the code and the templates mark, with a file that does."""
    found: dict[Key, Path] = {}
    for place in _PLACES:
        for path in sorted((ROOT / place).rglob("*")):
            name = path.relative_to(ROOT).as_posix()
            if path.suffix not in (".py", ".html") or name.startswith(_LEFT_OUT):
                continue
            text = path.read_text(encoding="utf-8")
            for key in of_python(text) if path.suffix == ".py" else of_template(text):
                found.setdefault(key, path)
    return found


def of_python(source: str) -> Iterator[Key]:
    """The texts in calls of gettext's functions. Arguments that are not literals are omitted."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLS:
            texts = [_literal(node.args, place) for place in _CALLS[node.func.id]]
            if texts[1]:
                yield texts[0], texts[1], texts[2]


def of_template(source: str) -> Iterator[Key]:
    """The texts in `translate` and `blocktranslate` tags, and those that are arguments of filters and other tags."""
    for match in _ARGUMENT.finditer(source):
        yield "", match["text"], ""
    for match in _TRANSLATE.finditer(source):
        yield _context(match["rest"]), match["text"], ""
    for match in _BLOCK.finditer(source):
        bodies = [_of_body(body, "trimmed" in match["options"]) for body in _PLURAL.split(match["body"])]
        yield _context(match["options"]), bodies[0], bodies[1] if len(bodies) > 1 else ""


def read_po(path: Path) -> Iterator[Entry]:
    """The entries of a .po file, the header (with an empty text) among them; obsolete ones are not."""
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        entry, member = Entry(), ""
        for line in block.splitlines():
            if line.startswith("#"):
                entry.fuzzy |= line.startswith("#,") and "fuzzy" in line
                continue
            keyword, _space, text = line.partition(" ") if not line.startswith('"') else ("", "", line)
            member = keyword or member
            _add(entry, member, ast.literal_eval(text), begins=bool(keyword))
        if member:
            yield entry


def _add(entry: Entry, member: str, text: str, *, begins: bool) -> None:
    if member.startswith("msgstr"):
        if begins:
            entry.forms.append("")
        entry.forms[-1] += text
    else:
        name = {"msgctxt": "context", "msgid": "text", "msgid_plural": "plural"}[member]
        setattr(entry, name, getattr(entry, name) + text)


def _literal(arguments: list[ast.expr], place: int | None) -> str:
    node = arguments[place] if place is not None and place < len(arguments) else None
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _of_body(body: str, trimmed: bool) -> str:
    text = " ".join(line.strip() for line in body.strip().splitlines()) if trimmed else body
    return _VARIABLE.sub(r"%(\1)s", text)


def _context(options: str) -> str:
    match = _CONTEXT.search(options)
    return match[1] if match else ""
