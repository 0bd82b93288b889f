"""The structure that contributors rely on: no circles, no upward imports, rooms of one kind."""

from pathlib import Path

from tests.processes import ROOT
from tests.structure.measures import measure


def test_imports_go_one_way() -> None:
    figures = measure(ROOT)
    assert figures["circles"] == []
    assert figures["upward_imports"] == []
    assert figures["class_names_used_twice"] == []
    assert figures["modules_not_in_the_glossary"] == []
    assert figures["docstring_coverage"] >= 0.9
    assert figures["lines_in_management"] <= 6500


def test_a_circle_and_an_upward_import_are_found(tmp_path: Path) -> None:
    for name, text in {
        "tenants/__init__.py": "",
        "tenants/low.py": "from devices import high\n",
        "devices/__init__.py": "",
        "devices/high.py": "from .other import x\n",
        "devices/other.py": "from . import high\nclass A: ...\nclass Meta: ...\n",
        "telemetry/mine.py": "class A: ...\nclass Meta: ...\ndef f():\n    pass\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    figures = measure(tmp_path)
    assert figures["circles"] == [["devices.high", "devices.other"]]
    assert figures["upward_imports"] == ["tenants.low → devices.high"]
    assert figures["class_names_used_twice"] == ["A"]
    assert (figures["public_functions"], figures["docstring_coverage"]) == (1, 0.0)
