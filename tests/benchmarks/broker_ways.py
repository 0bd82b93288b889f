"""The ways to keep Mosquitto's accounts that `bench_broker_access` compares, each on a broker of its own."""

import base64
import hashlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from devices.services.broker import mosquitto_control
from devices.services.broker.topic_rules import Role
from management.embedded import dynsec, mosquitto_package
from management.embedded.files import write_file
from tests.processes import free_port

PASSWORD = "the same for all"


@dataclass
class Broker:
    """A running broker, and how a way adds devices to it."""

    directory: Path
    port: int
    platform_port: int
    process: subprocess.Popen[bytes]
    add: Callable[[Sequence[str]], None] = lambda names: None


@contextmanager
def running(package: mosquitto_package.Mosquitto, way: str, size: int) -> Iterator[Broker]:
    with tempfile.TemporaryDirectory(prefix="gwanje-accounts-") as path:
        directory = Path(path)
        port, platform_port = free_port(), free_port()
        names = [str(uuid4()) for _ in range(size)]
        write_file(directory / "names", "\n".join(names))
        write_file(directory / "topics.acl", _patterns(way))
        prepare, make_add = WAYS[way]
        prepare(directory, names, package)
        write_file(directory / "mosquitto.conf", _configuration(directory, way, package, port, platform_port))
        command = [str(package.program), "-c", str(directory / "mosquitto.conf")]
        env = {**os.environ, **package.env}
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        broker = Broker(directory, port, platform_port, process)
        try:
            _await_port(port)
            broker.add = make_add(broker)
            yield broker
        finally:
            process.terminate()
            process.wait()


def _configuration(directory: Path, way: str, package: mosquitto_package.Mosquitto, port: int, platform: int) -> str:
    user = "user root\n" if os.geteuid() == 0 else ""
    accounts = f"password_file {directory}/passwords"
    binding = "use_username_as_clientid true"
    if way != "password_file":
        accounts = f"plugin {package.plugin}\nplugin_opt_config_file {directory}/dynamic-security.json"
        binding = ""
    return (
        f"{user}set_tcp_nodelay true\nallow_anonymous false\nlog_type error\n"
        f"{accounts}\nacl_file {directory}/topics.acl\n"
        f"listener {port} 127.0.0.1\n{binding}\nlistener {platform} 127.0.0.1\n"
    )


def _patterns(way: str) -> str:
    platform = "user gwanje-platform\ntopic read telemetry/#\n" if way == "password_file" else ""
    return platform + dynsec.topic_patterns()


def _prepare_plugin(directory: Path, names: Sequence[str], package: mosquitto_package.Mosquitto) -> None:
    knows_names = package.version >= (2, 1)
    ours = [dynsec.account(f"gwanje-{role}", PASSWORD, role) for role in (Role.ADMIN, Role.PLATFORM)]
    dynsec.write_configuration(directory / "dynamic-security.json", ours, knows_names=knows_names)
    kept = json.loads((directory / "dynamic-security.json").read_text())
    template = dynsec.account("", PASSWORD, Role.DEVICE)
    kept["clients"] += [{**template, "username": name, "clientid": name} for name in names]
    write_file(directory / "dynamic-security.json", json.dumps(kept))


def _prepare_role_each(directory: Path, names: Sequence[str], package: mosquitto_package.Mosquitto) -> None:
    _prepare_plugin(directory, names, package)
    kept = json.loads((directory / "dynamic-security.json").read_text())
    for client in kept["clients"]:
        if client.get("clientid"):
            client["roles"] = _roles_of(client["username"])
    kept["roles"] += [{"rolename": name, "acls": _own_rules(name)} for name in names]
    for role in kept["roles"]:
        if role["rolename"] == Role.DEVICE:
            role["acls"] = [rule for rule in role["acls"] if not rule["allow"]]
    write_file(directory / "dynamic-security.json", json.dumps(kept))


def _roles_of(name: str) -> list[dict[str, Any]]:
    return [{"rolename": name, "priority": 1}, {"rolename": str(Role.DEVICE), "priority": 0}]


def _own_rules(name: str) -> list[dict[str, Any]]:
    return [{"acltype": "subscribePattern", "topic": f"command/+/{name}/request", "priority": 1, "allow": True}]


def _prepare_passwords(directory: Path, names: Sequence[str], _package: mosquitto_package.Mosquitto) -> None:
    line = _password_line("")
    lines = [f"{name}{line}" for name in [*names, "gwanje-platform"]]
    write_file(directory / "passwords", "\n".join([*lines, ""]))


def _password_line(name: str) -> str:
    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", PASSWORD.encode(), salt, 101)
    return f"{name}:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def _add_by_plugin(broker: Broker) -> Callable[[Sequence[str]], None]:
    def add(names: Sequence[str]) -> None:
        with _administrator(broker):
            mosquitto_control.grant_devices(dict.fromkeys(names, PASSWORD))

    return add


def _add_with_role_each(broker: Broker) -> Callable[[Sequence[str]], None]:
    def add(names: Sequence[str]) -> None:
        commands: list[dict[str, Any]] = []
        for name in names:
            account = {"username": name, "clientid": name, "password": PASSWORD, "roles": _roles_of(name)}
            commands.append({"command": "createRole", "rolename": name, "acls": _own_rules(name)})
            commands.append({"command": "createClient", **account})
        with _administrator(broker):
            mosquitto_control.run(commands)

    return add


def _add_to_password_file(broker: Broker) -> Callable[[Sequence[str]], None]:
    def add(names: Sequence[str]) -> None:
        file = broker.directory / "passwords"
        write_file(file, file.read_text() + "".join(f"{_password_line(name)}\n" for name in names))
        broker.process.send_signal(signal.SIGHUP)

    return add


@contextmanager
def _administrator(broker: Broker) -> Iterator[None]:
    from django.conf import settings

    before = settings.MQTT_ADMIN_URL
    password = PASSWORD.replace(" ", "%20")
    settings.MQTT_ADMIN_URL = f"mqtt://gwanje-admin:{password}@127.0.0.1:{broker.platform_port}"
    try:
        yield
    finally:
        settings.MQTT_ADMIN_URL = before


WAYS: dict[str, tuple[Callable[..., None], Callable[[Broker], Callable[[Sequence[str]], None]]]] = {
    "plugin": (_prepare_plugin, _add_by_plugin),
    "plugin_role_each": (_prepare_role_each, _add_with_role_each),
    "password_file": (_prepare_passwords, _add_to_password_file),
}


def _await_port(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError("The broker did not start.")
