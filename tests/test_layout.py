"""The house: what would break every entry point, and who may import whom."""

import subprocess
import sys
from pathlib import Path

from tests.processes import ROOT


def test_platform_is_a_source_root_and_never_a_package() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    import platform

    assert Path(platform.__file__ or "").name == "platform.py", "the standard library's module is shadowed"


def test_import_contracts_hold() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
