"""Mosquitto's program: found on this machine, installed with apt as root, or unpacked under var/."""

import glob
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import ServerMissing
from .files import tail

_PLUGIN = "mosquitto_dynamic_security.so"
_PLACES = ("/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin", "/opt/homebrew/sbin")
_POLICY = Path("/usr/sbin/policy-rc.d")
_OURS = "# written by gwanje while it installs mosquitto\n"
_HOW = "Install Mosquitto 2 (on Debian and Ubuntu: apt-get install mosquitto), or set MQTT_URL to a broker of yours."


@dataclass(frozen=True, slots=True)
class Mosquitto:
    """The broker's program, its dynamic security plugin, and its library directory when that is not the usual one."""

    program: Path
    plugin: Path
    libraries: tuple[Path, ...] = ()
    version: tuple[int, int] = (2, 0)

    @property
    def env(self) -> dict[str, str]:
        return {"LD_LIBRARY_PATH": ":".join(map(str, self.libraries))} if self.libraries else {}


def obtain(directory: Path, log: Path, progress: Callable[[str], None]) -> Mosquitto:
    """Return the broker of this machine, or a downloaded one. Raises ServerMissing, which says what to do."""
    found = find_installed() or find_unpacked(directory)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        progress("Mosquitto is not installed: installing it with apt-get")
        install(log)
        found = find_installed()
    elif found is None and shutil.which("apt-get") and shutil.which("dpkg"):
        progress("Mosquitto is not installed: downloading it, to be used without installing")
        unpack(directory, log)
        found = find_unpacked(directory)
    if found is None:
        raise ServerMissing(f"Mosquitto, the MQTT broker, is not on this machine, and could not be downloaded. {_HOW}")
    return replace(found, version=_require_version_2(found))


def find_installed() -> Mosquitto | None:
    """Return the installed broker with its plugin; None when there is none."""
    path = shutil.which("mosquitto", path=":".join([os.environ.get("PATH", ""), *_PLACES]))
    if path is None:
        return None
    root = Path(path).resolve().parents[1]
    plugin = _find_plugin(root, Path("/usr"), Path("/usr/local"))
    if plugin is None:
        raise ServerMissing(f"{path} is a Mosquitto without its dynamic security plugin ({_PLUGIN}). {_HOW}")
    return Mosquitto(Path(path), plugin)


def find_unpacked(directory: Path) -> Mosquitto | None:
    """Return the broker that an earlier run unpacked under the directory."""
    program, plugin = directory / "usr/sbin/mosquitto", _find_plugin(directory / "usr")
    if not program.exists() or plugin is None:
        return None
    libraries = [Path(path) for part in ("usr/lib", "lib") for path in glob.glob(f"{directory}/{part}/*-linux-gnu*")]
    return Mosquitto(program, plugin, tuple(libraries))


def _find_plugin(*roots: Path) -> Path | None:
    for root in roots:
        for pattern in (f"lib/*/{_PLUGIN}", f"lib/{_PLUGIN}", f"lib*/mosquitto*/{_PLUGIN}", f"lib64/{_PLUGIN}"):
            for path in sorted(root.glob(pattern)):
                return path
    return None


def _require_version_2(found: Mosquitto) -> tuple[int, int]:
    """Return the broker's version. Raises ServerMissing for one before 2.0."""
    env = {**os.environ, **found.env}
    result = subprocess.run([str(found.program), "-h"], capture_output=True, text=True, env=env, errors="replace")
    version = re.search(r"mosquitto version (\d+)\.(\d+)\S*", result.stdout)
    if version is None:
        raise ServerMissing(
            f"{found.program} does not run here: {(result.stderr or result.stdout).strip()[:300]} {_HOW}"
        )
    if int(version[1]) < 2:
        raise ServerMissing(f"{found.program} is Mosquitto {version[1]}.{version[2]}, and 2.0 is needed. {_HOW}")
    return int(version[1]), int(version[2])


def install(log: Path) -> None:
    """Install the system's package without starting its service, now or at the next boot."""
    with _no_service_starts():
        _apt(log, "update", fatal=False)
        _apt(log, "install", "-y", "-o", "DPkg::Lock::Timeout=120", "--no-install-recommends", "mosquitto")
    if shutil.which("systemctl"):
        # The service would take port 1883 at the next boot.
        subprocess.run(["systemctl", "disable", "mosquitto"], capture_output=True)


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Prevent Debian's packages from starting services: policy-rc.d answers 101 and is restored afterwards."""
    before = _POLICY.read_bytes() if _POLICY.exists() else None
    if before is not None and _OURS.encode() in before:  # left by a killed start
        before = None
    mode = _POLICY.stat().st_mode if before is not None else 0
    _POLICY.write_text(f"#!/bin/sh\n{_OURS}exit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        if before is None:
            _POLICY.unlink()
        else:
            _POLICY.write_bytes(before)
            _POLICY.chmod(mode)


def unpack(directory: Path, log: Path) -> None:
    """Download the package with its missing dependencies and unpack them; needs no privileges."""
    cache = directory.parent / "apt"
    for part in ("cache/archives/partial", "lists/partial"):
        (cache / part).mkdir(parents=True, exist_ok=True)
    ours = ["-o", f"Dir::Cache={cache}/cache", "-o", "Debug::NoLocking=1"]
    own_lists = [*ours, "-o", f"Dir::State::lists={cache}/lists"]
    # --reinstall: apt counts a package as installed when only its files are missing.
    download = ["install", "-y", "--download-only", "--reinstall", "--no-install-recommends", "mosquitto"]
    if not _apt(log, *ours, *download, fatal=False):  # the package lists are missing or out of date
        _apt(log, *own_lists, "update")
        _apt(log, *own_lists, *download)
    new = directory.with_name(f"{directory.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    for package in sorted((cache / "cache/archives").glob("*.deb")):
        with log.open("ab") as file:
            subprocess.run(["dpkg", "-x", str(package), str(new)], stdout=file, stderr=file, check=True)
    shutil.rmtree(directory, ignore_errors=True)
    new.rename(directory)
    shutil.rmtree(cache)


def _apt(log: Path, *arguments: str, fatal: bool = True) -> bool:
    """Run apt-get with its output in the log; return whether it succeeded. Raises ServerMissing when `fatal`."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    with log.open("ab") as file:
        done = subprocess.run(["apt-get", *arguments], stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=env)
    if done.returncode and fatal:
        raise ServerMissing(f"Mosquitto could not be downloaded with apt-get:\n{tail(log, lines=5)}\n{_HOW}")
    return done.returncode == 0
