"""Mosquitto 2, the MQTT broker: a password for each account, and rules for every topic."""

import os
import secrets
import threading
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from devices.services.broker.topic_rules import Role

from . import ports
from .dynsec import account, topic_patterns, write_configuration
from .files import private_directory, write_file
from .mosquitto_limits import BrokerLimits, read_limits
from .mosquitto_package import obtain
from .program import Program
from .server import Server, Site
from .supervisor import ends_with_parent

ACCOUNTS = (Role.PLATFORM, Role.ADMIN, Role.BRIDGE)


class MosquittoServer(Server):
    """The broker; it binds to the loopback address unless `MQTT_BIND` names another."""

    name = "mosquitto"
    label = "MQTT broker"

    def __init__(self, site: Site, port: int | None) -> None:
        super().__init__(site)
        self._requested = port
        self.bind = os.environ.get("MQTT_BIND") or ports.LOOPBACK

    def prepare(self) -> None:
        """Reserve the ports and write the server's files. Raises EmbeddedError."""
        self.limits: BrokerLimits = read_limits()
        self.port = self._take_port()
        self.platform_port = self.site.ports.kept(f"{self.name}-platform", f"{self.label}, the platform's port")
        private_directory(self.directory)
        self.package = obtain(self.directory / "dist", self.site.logs / "mosquitto-install.log", self.site.progress)
        accounts = [account(f"gwanje-{role}", self._password(role), role) for role in ACCOUNTS]
        knows_names = self.package.version >= (2, 1)
        write_configuration(self.directory / "dynamic-security.json", accounts, knows_names=knows_names)
        write_file(self.directory / "topics.acl", topic_patterns())
        write_file(self.directory / "mosquitto.conf", self._configuration())

    def _take_port(self) -> int:
        if self._requested is None:
            return self.site.ports.kept(self.name, self.label)
        return ports.require(self._requested, self.label, "MQTT_PORT", self.bind)

    def _password(self, role: str) -> str:
        return self.site.secrets.get(f"mqtt_{role}")

    def _configuration(self) -> str:
        user = "user root" if os.geteuid() == 0 else ""
        # The platform's processes have a port of their own: connections of devices, signed in or not, cannot take the
        # last one. Options of a listener follow its line.
        return f"""{user}
listener {self.port} {self.bind}
{self.limits.listener_lines()}
listener {self.platform_port} {ports.LOOPBACK}

set_tcp_nodelay true
allow_anonymous false
plugin {self.package.plugin}
plugin_opt_config_file {self.directory / "dynamic-security.json"}
acl_file {self.directory / "topics.acl"}

persistence true
persistence_location {self.directory}/
autosave_interval 30
{self.limits.lines()}
log_dest stderr
log_timestamp_format %Y-%m-%dT%H:%M:%S
log_type error
log_type warning
log_type notice
"""

    def program(self) -> Program:
        """Return the supervised program."""
        command = [str(self.package.program), "-c", str(self.directory / "mosquitto.conf")]
        command = [*ends_with_parent("TERM"), *self.limits.command(command)]
        return Program(self.name, command, self.log, env=self.package.env, stopwaitsecs=20, priority=30)

    def is_ready(self) -> bool:
        """Return whether the broker accepts the platform's login."""
        answered, accepted = threading.Event(), threading.Event()

        def on_connect(_client: mqtt.Client, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            if not reason.is_failure:
                accepted.set()
            answered.set()

        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"gwanje-check-{secrets.token_hex(4)}")
        client.username_pw_set(f"gwanje-{Role.PLATFORM}", self._password(Role.PLATFORM))
        client.on_connect = on_connect
        try:
            client.connect(ports.LOOPBACK, self.platform_port, keepalive=10)
        except OSError:
            return False
        client.loop_start()
        answered.wait(2)
        client.disconnect()
        client.loop_stop()
        return accepted.is_set()

    @property
    def _host(self) -> str:
        """Return the address at which processes of this machine reach the broker."""
        return ports.LOOPBACK if self.bind in ("0.0.0.0", "::") else self.bind  # noqa: S104 - compared, not bound

    def environment(self) -> dict[str, str]:
        """Return the environment variables by which the platform finds the server."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        own, shared = f"{ports.LOOPBACK}:{self.platform_port}", f"{host}:{self.port}"
        # A bridge comes from another machine.
        addresses = {Role.PLATFORM: own, Role.ADMIN: own, Role.BRIDGE: shared}
        urls = {role: f"mqtt://gwanje-{role}:{self._password(role)}@{addresses[role]}" for role in ACCOUNTS}
        return {
            "MQTT_URL": urls[Role.PLATFORM],
            "MQTT_ADMIN_URL": urls[Role.ADMIN],
            "MQTT_BRIDGE_URL": urls[Role.BRIDGE],
            "MQTT_HOST": self._host,
            "MQTT_PORT": str(self.port),
        }
