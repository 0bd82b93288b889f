"""Files of the embedded servers that only their owner can read, and logs that do not grow without end."""

import json
import stat
from configparser import RawConfigParser
from pathlib import Path

import pytest

from management.embedded.files import make_private, open_private
from management.embedded.stack import EmbeddedStack


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_logs_can_be_read_by_their_owner_only(stack: EmbeddedStack) -> None:
    logs = stack.var / "log"
    assert mode(logs) == 0o700
    modes = {path.name: oct(mode(path)) for path in logs.iterdir() if path.is_file()}
    assert {"openbao.log", "postgres.log", "supervisord.log", "supervisord.out"} <= modes.keys()
    assert {name: text for name, text in modes.items() if text != "0o600"} == {}


def test_directories_are_not_listed_for_others(stack: EmbeddedStack) -> None:
    assert mode(stack.var) & 0o066 == 0
    for name in ("run", "run/programs", "openbao", "valkey", "mosquitto", "postgres"):
        assert mode(stack.var / name) == 0o700, name


def test_files_of_a_former_version_become_private(tmp_path: Path) -> None:
    logs = tmp_path / "log"
    logs.mkdir(mode=0o755)
    (logs / "web.log").write_text("old")
    (logs / "web.log").chmod(0o644)
    make_private(logs)
    assert (mode(logs), mode(logs / "web.log")) == (0o700, 0o600)
    with open_private(logs / "new.log", "ab") as file:
        file.write(b"x")
    assert mode(logs / "new.log") == 0o600


def test_the_audit_log_of_openbao_is_written_and_rotated(stack: EmbeddedStack) -> None:
    lines = (stack.var / "log" / "openbao-audit.log").read_text().splitlines()
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    assert {"request", "response"} <= {entry["type"] for entry in entries}
    configuration = RawConfigParser()
    configuration.read(stack.var / "run" / "programs" / "openbao.conf")
    section = configuration["program:openbao"]
    for stream, name in (("stdout", "openbao-audit.log"), ("stderr", "openbao.log")):
        assert section[f"{stream}_logfile"].endswith(name)
        assert int(section[f"{stream}_logfile_maxbytes"]) == 10 * 1024 * 1024
        assert int(section[f"{stream}_logfile_backups"]) == 1


@pytest.mark.parametrize("name", ["openbao", "postgres", "valkey", "mosquitto"])
def test_every_servers_log_is_rotated(stack: EmbeddedStack, name: str) -> None:
    section = (stack.var / "run" / "programs" / f"{name}.conf").read_text()
    assert "stdout_logfile_maxbytes = 0" not in section
    assert "logfile_maxbytes" in section
