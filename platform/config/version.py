"""The platform's version: `pyproject.toml` is its single source."""

import tomllib

from .environment import BASE_DIR


def read_version() -> str:
    """Return the version as `pyproject.toml` states it, such as `0.2.0`."""
    project = tomllib.loads((BASE_DIR / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])
