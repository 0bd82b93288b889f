"""The source of settings: the environment, completed from the file that the embedded servers write."""

import os
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import environ
from django.core.exceptions import ImproperlyConfigured

_BIND_OPTIONS = ("--host", "--bind", "-b")
_BIND_VARIABLES = ("UVICORN_HOST",)

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
