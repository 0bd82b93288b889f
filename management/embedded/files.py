"""Files of the embedded servers: written atomically, with secrets readable by their owner only."""

import json
import os
import secrets
import threading
from pathlib import Path
from typing import IO, Any, cast


def write_file(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace the file's content atomically and sync it: a crash leaves the old content or the new."""
    new = path.with_name(f".{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, mode)
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    new.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Replace the file's content by the value as JSON, readable by the owner only."""
    write_file(path, json.dumps(value, indent=2) + "\n")


def private_directory(path: Path) -> Path:
    """Create the directory and its parents with mode 0700; an existing one does not change."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def make_private(directory: Path) -> None:
    """Create the directory; let only its owner enter it and read its files, also those of a former version."""
    private_directory(directory).chmod(0o700)
    for path in directory.iterdir():
        if path.is_file() and not path.is_symlink():
            path.chmod(0o600)


def open_private(path: Path, mode: str) -> IO[bytes]:
    """Open a binary file for writing; a new one can be read by its owner only."""
    return cast("IO[bytes]", open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600)))


def tail(path: Path, *, offset: int = 0, lines: int = 12) -> str:
    """Return the last lines of a log file after `offset`; empty when there is no file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            # A rotated log is shorter than the offset: all of it is new.
            start = offset if offset <= size else 0
            file.seek(max(start, size - 16_384))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


class Secrets:
    """Passwords of the embedded servers, each generated once and stored in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()  # the servers are prepared in parallel
        self._values: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, name: str) -> str:
        """Return the secret of that name: 43 characters of the URL-safe alphabet."""
        with self._lock:
            if name not in self._values:
                self._values[name] = secrets.token_urlsafe(32)
                write_json(self._path, self._values)
        return self._values[name]
