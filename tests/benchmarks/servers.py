"""Servers of a benchmark's own, so that it neither needs nor disturbs any others."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from management.embedded.stack import EmbeddedStack


@contextmanager
def own_servers(*use: str, on_progress: Callable[[str], None]) -> Iterator[EmbeddedStack]:
    """Start the servers, point this process at them, and set Django up. Call it before settings are read."""
    with tempfile.TemporaryDirectory(prefix="gwanje-bench-") as directory:
        # PostgreSQL of root runs as another user inside the directory.
        Path(directory).chmod(0o755)
        os.environ["GWANJE_VAR"] = directory
        with EmbeddedStack(Path(directory), use=frozenset(use), on_progress=on_progress) as stack:
            for line in (Path(directory) / "embedded.env").read_text().splitlines():
                name, _, value = line.partition("=")
                os.environ[name] = value
            import django

            django.setup()
            yield stack
