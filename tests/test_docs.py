"""The documents compared with the code: links, settings, commands, addresses, tables, examples."""

import ast
import itertools
import json
import re
import shlex
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from django.apps import apps
from django.core.management import get_commands, load_command_class
from django.core.management.base import CommandParser
from django.db import connection
from django.db.models import TextChoices
from django.urls import Resolver404, resolve

from alarms.domain.rule_levels import parse_levels
from alarms.domain.silence import parse_silence_levels
from devices.models import Device
from devices.models.presence import Cause, Status
from devices.models.rotation import RotationCampaign, RotationMember
from devices.services.broker.usage import COUNTERS, GAUGES
from management.embedded.dynsec import topic_patterns
from telemetry.api.serializers.readings import LatestSerializer
from telemetry.models import Reason
from tenants.infrastructure.metrics import HELP_TEXTS
from tenants.middleware import _PROBES
from tenants.models import Membership
from tests.documents import FENCED, anchors, fenced, links, read, spans, table
from tests.processes import ROOT

FOLDERS = ("docs", "management", "devices")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for name in FOLDERS for path in (ROOT / name).rglob("*.md"))])
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
# The changelog also names what a release has removed or renamed.
CURRENT = [name for name in NAMES if name != "CHANGELOG.md"]
UUID = "6d1f6a3e-5f0e-4c53-9d68-0a6f0c8a1f11"
# What stands for something in an example, and one thing that it may stand for.
STAND_INS = {
    "${TENANT_URL}": "http://localhost:8000/t/demo/",
    "$API/": "http://localhost:8000/t/demo/api/v1/",
    "$DEVICE": UUID,
    "$TYPE": "7",
    "{uuid}": UUID,
    "{slug}": "demo",
    "{id}": "1",
}

_ADDRESS = re.compile(
    r"(?<![\w/#])(?<!gwanje:)(?:http://localhost:8000)?(?:/t/demo)?/?(?:api/|admin/|healthz|readyz|metrics(?!\"))[^\s\"'`)>|…,]*"
)
_FILE = re.compile(
    r"^(?:tests|docs|deploy|management|devices|tenants|telemetry|platform|templates|static|locale)/[\w./-]*$"
)


# --- Links and files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_relative_links_lead_somewhere(name: str) -> None:
    document, text = ROOT / name, read(name)
    for link in links(text):
        if urlsplit(link).scheme:
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), f"{link}: no such heading"


@pytest.mark.parametrize("name", CURRENT)
def test_files_that_are_named_exist(name: str) -> None:
    for span in spans(read(name)):
        assert not _FILE.match(span) or (ROOT / span).exists(), f"{span} does not exist"


def test_every_document_is_reached_from_the_readme() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(read("README.md"))}
    assert {path for path in DOCUMENTS if path.name != "README.md"} <= linked


def test_the_changelog_has_a_place_for_what_comes() -> None:
    assert "\n## [Unreleased]\n" in read("CHANGELOG.md")


# --- Settings -----------------------------------------------------------------------------------------------


def variables_read(path: Path) -> Iterator[tuple[str, ast.expr | None]]:
    """Each variable that the module reads from the environment, with the expression of its default."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner, method = ast.unparse(node.func.value), node.func.attr
        if owner in ("env", "os.environ"):
            arguments = node.args
        elif (owner, method) == ("environment", "required"):
            arguments = node.args[1:]
        else:
            continue
        if arguments and isinstance(arguments[0], ast.Constant):
            defaults = [keyword.value for keyword in node.keywords if keyword.arg == "default"]
            yield str(arguments[0].value), defaults[0] if defaults else None


def as_written(default: ast.expr) -> str | None:
    """The default as it would be written into the environment; None where it is worked out."""
    try:
        value: Any = eval(ast.unparse(default), {"__builtins__": {}})  # noqa: S307 (64 * 1024 of our own settings)
    except (NameError, AttributeError):
        return None
    if isinstance(value, list):
        value = ",".join(value)
    if isinstance(value, bool | float) and value == int(value):
        value = int(value)
    return f"`{value}`" if value != "" else "–"


def test_every_setting_is_documented_with_its_default() -> None:
    documented = table(read("docs/operations.md"), "variable | default | meaning")
    config = ROOT / "platform" / "config"
    read_here = [*variables_read(config / "settings.py"), *variables_read(config / "environment.py")]
    assert documented.keys() == {name for name, _ in read_here}
    for name, default in read_here:
        written = as_written(default) if default is not None else None
        assert written in (None, documented[name][0]), f"{name}: the default is {written}"


def test_the_variables_of_make_run_are_in_the_makefile() -> None:
    makefile = dict(re.findall(r"^([A-Z_]+) \?= ?(.*)$", read("Makefile"), re.MULTILINE))
    heads = {"README.md": "variable | default | for example", "docs/operations.md": "variable | default | what"}
    for document, head in heads.items():
        for name, (default, *_) in table(read(document), head).items():
            if name == "MQTT_BIND":  # read by the embedded broker itself
                continue
            assert default.split(":")[0].strip("`–") == makefile[name], f"{document}: {name}"


# --- Commands -----------------------------------------------------------------------------------------------


OURS = {
    path.stem: app
    for app in ("management", "alarms")
    for path in (ROOT / app / "management" / "commands").glob("[!_]*.py")
}


def parser_of(command: str) -> CommandParser:
    """The command's parser; fails where there is no such command."""
    commands = get_commands() | OURS
    assert command in commands, f"there is no command {command}"
    return load_command_class(commands[command], command).create_parser("manage.py", command)


def test_every_command_of_ours_is_documented() -> None:
    assert table(read("docs/operations.md"), "command | what | when").keys() == OURS.keys()


BENCHMARKS = {path.stem for path in (ROOT / "tests" / "benchmarks" / "parts").glob("[a-z]*.py")}


def test_every_benchmark_is_documented_with_options_that_it_has() -> None:
    documented = table(read("docs/scaling.md"), "part | what it measures | when to run it")
    assert documented.keys() == BENCHMARKS
    for part, cells in documented.items():
        parser = import_module(f"tests.benchmarks.parts.{part}").Command().create_parser("tests.benchmarks", part)
        for option in re.findall(r"`(--[a-z][\w-]*)`", " ".join(cells)):
            assert option in parser._option_string_actions, f"{part}: there is no option {option}"


def test_no_other_app_has_a_command_of_the_same_name() -> None:
    assert {name: app for name, app in get_commands().items() if name in OURS} == OURS


@pytest.mark.parametrize("name", CURRENT)
def test_commands_that_are_named_exist_with_their_options(name: str) -> None:
    for span in spans(read(name)):
        words = span.partition("manage.py ")[2] or (span if span.split(" ")[0] in OURS else "")
        if re.match(r"[a-z]\w*", words):
            known = parser_of(words.split()[0])._option_string_actions
            for option in re.findall(r"(?<!\S)(--[a-z][\w-]*)", words):
                assert option in known, f"`{span}`: there is no option {option}"


@pytest.mark.parametrize("name", NAMES)
def test_command_lines_can_be_parsed(name: str) -> None:
    for line in (line for block in fenced(read(name), "sh") for line in block.splitlines()):
        if "manage.py " in line:
            command, *arguments = shlex.split(line.partition("manage.py ")[2], comments=True)
            parser_of(command).parse_args(arguments)  # raises CommandError


@pytest.mark.parametrize("name", NAMES)
def test_make_has_the_targets_that_are_named(name: str) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", read("Makefile"), re.MULTILINE))
    known = {*re.findall(r"^([A-Z_]+) \??[:?]?=", read("Makefile"), re.MULTILINE), "MQTT_BIND"}
    for span in spans(read(name)):
        for target, rest in re.findall(r"(?:^|[\s(])make ([a-z][a-z-]*)([^|&;#]*)", span):
            assert target in targets, f"`{span}`: there is no target {target}"
            assert set(re.findall(r"(?<!\S)([A-Z_]+)=", rest)) <= known, f"`{span}`: no such variable"


def test_log_messages_that_are_named_are_logged() -> None:
    folders = ("telemetry", "devices", "tenants", "alarms", "management")
    code = "".join(path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py"))
    named = [
        key for key in table(read("docs/operations.md"), "where | what it shows") if re.match(r"[A-Z]\w+ [a-z]", key)
    ]
    assert len(named) >= 5
    for message in named:
        parts = [part.strip() for part in message.split("…")]
        assert all(part in code for part in parts), message


# --- Addresses ----------------------------------------------------------------------------------------------


def addresses(text: str) -> Iterator[str]:
    """Every address of the platform that stands in code or in a link, with something put in for what stands in."""
    for span in [*spans(text), *links(text)]:
        for stand_in, value in STAND_INS.items():
            span = span.replace(stand_in, value)
        yield from (found.rstrip(".") for found in _ADDRESS.findall(span))


def find_view(address: str) -> Callable[..., Any] | None:
    """The view that answers, in the tenant's or in the public addresses; None where nothing does."""
    path = urlsplit(address).path
    if path in _PROBES:
        return _PROBES[path]
    served = ["config.urls"] if path.startswith("/t/demo/") else ["config.urls_public"]
    if not address.startswith(("http", "/t/")):  # it may follow either
        served = ["config.urls", "config.urls_public"]
    inner = "/" + path.removeprefix("/t/demo").lstrip("/")
    for urlconf, tried in itertools.product(served, (inner, f"{inner}/")):
        try:
            match = resolve(tried, urlconf)
        except Resolver404:
            continue
        if not match.route.startswith(("^api/", "admin/(?P<url>")):  # they answer everything else with 404
            return match.func
    return None


@pytest.mark.parametrize("name", CURRENT)
def test_addresses_exist_and_know_their_parameters(name: str) -> None:
    for address in addresses(read(name)):
        answering = find_view(address)
        assert answering is not None, f"{address}: nothing answers there"
        given = {key for key, _ in parse_qsl(urlsplit(address).query, keep_blank_values=True)}
        view = getattr(answering, "cls", None)
        if given and view is not None:
            known = set(view().known_parameters())
            assert given <= known, f"{address}: known are {sorted(known)}"


def test_the_addresses_that_are_searched_for_are_found() -> None:
    found = set(addresses(read("README.md")))
    assert {"http://localhost:8000/t/demo/api/v1/devices/", "http://localhost:8000/admin/"} <= found
    assert f"http://localhost:8000/t/demo/api/v1/devices/{UUID}/latest/" in found
    assert find_view("http://localhost:8000/t/demo/api/v1/nothing/") is None
    assert find_view("http://localhost:8000/nothing/") is None


# --- Architecture -------------------------------------------------------------------------------------------


def packages(app: str) -> set[str]:
    """Return the paths of the app's packages, without migrations."""
    found = {str(path.parent.relative_to(ROOT)) for path in (ROOT / app).rglob("__init__.py")}
    return {path for path in found if not path.endswith("/migrations")}


@pytest.mark.parametrize("app", ["tenants", "devices", "telemetry", "alarms", "management"])
def test_the_architecture_lists_every_package(app: str) -> None:
    assert table(read("docs/architecture.md"), f"package of {app} | contains").keys() == packages(app)


def test_the_picture_of_the_processes_has_every_process() -> None:
    rows = re.findall(r"^\| [\w ]+ \| `(\w+)` \|", read("docs/architecture.md"), re.MULTILINE)
    shown = re.findall(r"class=\"code\"[^>]*>(\w+)</text>", read("docs/images/processes.svg"))
    assert "run_alarms" in rows
    assert sorted(rows) == sorted(shown)


def test_the_picture_of_the_data_has_every_table() -> None:
    shown = re.findall(
        r"class=\"code\"[^>]*>((?:tenants|devices|telemetry|alarms)_\w+)\b", read("docs/images/data.svg")
    )
    ours = [
        model
        for app in ("tenants", "devices", "telemetry", "alarms")
        for model in apps.get_app_config(app).get_models()
    ]
    assert sorted(shown) == sorted(model._meta.db_table for model in ours)


def test_the_decision_lists_every_table_and_column_of_another_name() -> None:
    ours = [
        model
        for app in ("tenants", "devices", "telemetry", "alarms")
        for model in apps.get_app_config(app).get_models()
    ]
    renamed = {
        model.__name__: model._meta.db_table
        for model in ours
        if model._meta.db_table != f"{model._meta.app_label}_{model.__name__.lower()}"
    }
    for model in ours:
        for field in model._meta.local_fields:
            if field.db_column:
                renamed[f"{model.__name__}.{field.name}"] = f"{model._meta.db_table}.{field.column}"
    rows = table(read("docs/decisions.md"), "model or field | table or column")
    assert {name: spans(cells[0])[0] for name, cells in rows.items()} == renamed


def test_the_decision_lists_every_stored_value_of_another_name() -> None:
    renamed = {
        f"{model.__name__}.State.{choice.name}": choice.value
        for model in (RotationCampaign, RotationMember)
        for choice in model.State
        if choice.name.lower() != choice.value
    }
    rows = table(read("docs/decisions.md"), "choice | stored value")
    assert {name: spans(cells[0])[0] for name, cells in rows.items()} == renamed


def test_the_architecture_lists_every_key_in_redis() -> None:
    rows = re.findall(r"^\| (`(?:device_|gwanje:|telemetry_)[^|]+) \|", read("docs/architecture.md"), re.MULTILINE)
    listed = [key for row in rows for key in spans(row)]
    sources = [
        path.read_text() for app in ("tenants", "devices", "telemetry", "alarms") for path in (ROOT / app).rglob("*.py")
    ]
    literals = {key for source in sources for key in re.findall(r"\"(gwanje:[a-z_:]+)", source)}
    presence = (ROOT / "devices/services/presence/redis_scripts.py").read_text()
    literals.update(re.findall(r"\"(device_[a-z_]+)\"", presence))
    literals.update(re.findall(r"\"(telemetry_latest[a-z_:]*)\"", "".join(sources)))
    assert len(literals) > 15
    assert [key for key in sorted(literals) if not any(name.startswith(key) for name in listed)] == []


# --- Recipes and the site -----------------------------------------------------------------------------------


def test_every_recipe_names_its_files() -> None:
    recipes = dict(re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", read("CONTRIBUTING.md"), re.MULTILINE | re.DOTALL))
    assert len(recipes) == 8
    for title, steps in recipes.items():
        named = [span for span in spans(steps) if _FILE.match(span)]
        assert len(named) >= 3, f"{title}: names {named}"
        assert all((ROOT / name).exists() for name in named)


def test_the_site_has_every_document() -> None:
    pages = set(re.findall(r"^ +- .+: (\S+\.md)$", read("mkdocs.yml"), re.MULTILINE))
    assert pages == {name.removeprefix("docs/") for name in NAMES}


# --- Tables and examples ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "head", "choices"),
    [
        ("docs/concepts.md", "reason | what to mend", Reason),
        ("docs/device-guide.md", "reason | what it means", Reason),
        ("docs/concepts.md", "state | means", Status),
        ("docs/concepts.md", "cause | evidence", Cause),
        ("docs/concepts.md", "role | may", Membership.Role),
    ],
)
def test_tables_hold_what_the_models_hold(document: str, head: str, choices: type[TextChoices]) -> None:
    assert table(read(document), head).keys() == set(choices.values)


def test_the_readme_shows_the_example_that_runs() -> None:
    assert read("docs/examples/send_v1.sh") in [code for _, code in FENCED.findall(read("README.md"))]


def test_the_examples_of_rules_are_valid() -> None:
    rule, silence = map(json.loads, fenced(read("docs/alarms.md"), "json"))
    assert [one.intervals for one in parse_silence_levels(silence["levels"])] == [3, 60]
    levels = [(one.severity, one.raise_band.high) for one in parse_levels(rule["kind"], rule["levels"])]
    assert levels == [("warning", 30), ("critical", 40)]


def test_the_readme_shows_the_answer_as_it_is() -> None:
    (answer,) = fenced(read("README.md"), "json")
    for shown in json.loads(answer)["results"]:
        assert list(shown) == list(LatestSerializer().fields)


def test_security_shows_the_brokers_topic_patterns() -> None:
    assert topic_patterns() in fenced(read("docs/security.md"))


def test_the_question_about_gaps_is_answered(db: None, tenant_a: Any, enter: Any) -> None:
    (question,) = fenced(read("docs/reliability.md"), "sql")
    gaps = question.strip().rstrip(";").replace("t_demo", tenant_a.schema_name)
    with enter(tenant_a), connection.cursor() as cursor:
        device = Device.objects.create(name="with gaps")
        cursor.execute(
            "INSERT INTO telemetry_devicesequence (device_id, boot, seen)"
            " VALUES (%s, 7, '{[1,3),[5,9)}'), (%s, 8, '{[1,4)}')",
            [device.pk, device.pk],
        )
        cursor.execute(f"SELECT device_id, boot, missing::text FROM ({gaps}) AS gaps")  # noqa: S608
        rows = [row[1:] for row in cursor.fetchall() if row[0] == device.pk]
    assert rows == [(7, "{[3,5)}")]


def test_metrics_of_processes_are_documented_with_their_help_texts() -> None:
    rows = table(read("docs/operations.md"), "name | labels | what")
    documented = {name.removeprefix("gwanje_") for name, (labels, *_) in rows.items() if "`tenant`" not in labels}
    of_broker = {"broker_up", *(name for name, _text in GAUGES.values())}
    of_broker |= {f"{name}_total" for name, _text in COUNTERS.values()}
    assert of_broker <= documented
    assert documented - {"redis_up"} - of_broker == HELP_TEXTS.keys()
