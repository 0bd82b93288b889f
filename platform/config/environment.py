"""The source of settings: the environment, completed from the file that the embedded servers write."""

import os
from collections.abc import Mapping, Sequence
from datetime import date
from ipaddress import ip_address
from pathlib import Path
from typing import cast

import environ
from django.core.exceptions import ImproperlyConfigured

from tenants.infrastructure.secret_values import NEEDED_SECRETS, SECRET_VARIABLES, as_file

_BIND_OPTIONS = ("--host", "--bind", "-b")
_BIND_VARIABLES = ("UVICORN_HOST",)

BASE_DIR = Path(__file__).resolve().parents[2]


def load() -> environ.Env:
    """Return the process environment, completed from the file `GWANJE_ENV_FILE` or `var/embedded.env`.

    A variable of the environment has priority, so that single servers can be replaced by external ones. What the file
    contains does not become part of the environment, which other processes can read and children inherit. Raises
    ImproperlyConfigured where `GWANJE_ENV_FILE` names a file that cannot be read.
    """
    named = os.environ.get("GWANJE_ENV_FILE", "")
    file = Path(named or var_dir() / "embedded.env")
    if named and not os.access(file, os.R_OK):
        raise ImproperlyConfigured(f"GWANJE_ENV_FILE must be a file that this process can read, not {named}.")
    env = type("Variables", (environ.Env,), {"ENVIRON": dict(os.environ)})()
    if file.is_file():
        env.read_env(str(file), overwrite=False)
    return cast("environ.Env", env)


def write_secrets(program: str, variables: Mapping[str, str]) -> dict[str, str]:
    """Write the secrets that the program needs to a file of its own; return the variable that names the file.

    The set-up, and every program that is not known, gets all of them.
    """
    directory = Path(variables["GWANJE_VAR"]) / "run" / "env"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    file, new = directory / f"{program}.env", directory / f".{program}.new"
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as opened:
        opened.write(as_file(variables, NEEDED_SECRETS.get(program, SECRET_VARIABLES)))
    new.replace(file)
    return {"GWANJE_ENV_FILE": str(file)}


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


def optional_date(name: str, text: str) -> date | None:
    """Return the day that the variable's text spells, None for an empty one; raise ImproperlyConfigured for others."""
    try:
        return date.fromisoformat(text) if text else None
    except ValueError as error:
        raise ImproperlyConfigured(f"{name} must be a date, for example 2024-01-31, or empty, not {text!r}.") from error


def require_loopback(hosts: Sequence[str], arguments: Sequence[str]) -> None:
    """Raise ImproperlyConfigured where Django's debug pages could be read from another machine.

    `hosts` are the accepted host names, `arguments` those of the process: uvicorn, gunicorn or `manage.py runserver`.
    """
    if public := [host for host in hosts if not _is_loopback(host)]:
        raise ImproperlyConfigured(
            f"DEBUG must not be set together with ALLOWED_HOSTS={','.join(public)}: the debug pages show the code and "
            "its variables. Only localhost and addresses of the loopback are allowed then."
        )
    if bind := next((address for address in _binds(arguments) if not _is_loopback(_host_of(address))), None):
        raise ImproperlyConfigured(
            f"DEBUG must not be set on a server that listens on {bind}: the debug pages show the code and its "
            "variables. Listen on 127.0.0.1."
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _binds(arguments: Sequence[str]) -> list[str]:
    """Return the addresses that a server of these arguments listens on, as far as they name any."""
    pairs = list(zip(arguments, [*arguments[1:], ""], strict=True))
    found = [value for name, value in pairs if name in _BIND_OPTIONS]
    found += [name.partition("=")[2] for name in arguments if name.partition("=")[0] in _BIND_OPTIONS and "=" in name]
    found += [value for name, value in pairs if name == "runserver" and not value.startswith("-") and ":" in value]
    found += [os.environ[name] for name in _BIND_VARIABLES if name in os.environ]
    return [address for address in found if address and not address.startswith("unix:")]


def _host_of(address: str) -> str:
    host, colon, port = address.rpartition(":")
    return host if colon and port.isdecimal() and (":" not in host or host.startswith("[")) else address
