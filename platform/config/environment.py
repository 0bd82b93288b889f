"""Where settings come from: the environment, and beneath it what the embedded servers wrote."""

import os
from pathlib import Path

import environ
from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parents[2]


def load() -> environ.Env:
    """The process environment, completed from `var/embedded.env` where that file exists.

    A variable that is set in the environment always wins, so that one server of several may be somebody else's.
    """
    env = environ.Env()
    embedded = var_dir() / "embedded.env"
    if embedded.is_file():
        env.read_env(str(embedded), overwrite=False)
    return env


def var_dir() -> Path:
    """The directory of everything that is kept on this machine (`GWANJE_VAR`, default `var/`)."""
    return Path(os.environ.get("GWANJE_VAR") or BASE_DIR / "var").resolve()


def required(env: environ.Env, name: str, hint: str) -> str:
    """The variable's value, or ImproperlyConfigured with what to do about it."""
    value = env.str(name, default="")
    if not value:
        raise ImproperlyConfigured(
            f"{name} is not set: {hint} `make run` starts embedded servers and writes their "
            f"addresses to {var_dir() / 'embedded.env'}, where they are found by themselves."
        )
    return value
