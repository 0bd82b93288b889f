"""The source of settings: the environment, completed from the file that the embedded servers write."""

import os
from pathlib import Path

import environ
from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parents[2]


def load() -> environ.Env:
    """Return the process environment, completed from `var/embedded.env` where that file exists.

    A variable of the environment has priority, so that single servers can be replaced by external ones.
    """
    env = environ.Env()
    embedded = var_dir() / "embedded.env"
    if embedded.is_file():
        env.read_env(str(embedded), overwrite=False)
    return env


def var_dir() -> Path:
    """Return the directory of all data on this machine (`GWANJE_VAR`, default `var/`)."""
    return Path(os.environ.get("GWANJE_VAR") or BASE_DIR / "var").resolve()


def required(env: environ.Env, name: str, hint: str) -> str:
    """Return the variable's value; raise ImproperlyConfigured with the hint if it is not set."""
    value = env.str(name, default="")
    if not value:
        raise ImproperlyConfigured(
            f"{name} is not set: {hint} `make run` starts embedded servers and writes their "
            f"addresses to {var_dir() / 'embedded.env'}, which every process reads."
        )
    return value
