"""A load generator in a process of its own: `python -m tests.benchmarks.web.load_client`, options as JSON.

Each connection sends its next request when the answer to the last one has arrived. It prints JSON: the requests, the
seconds, the latencies in milliseconds, and the answers by status.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class Load:
    """Requests of one path over so many connections for so many seconds; `pause` is between two of one connection."""

    port: int
    path: str
    key: str
    connections: int = 1
    seconds: float = 5.0
    pause: float = 0.0


def start(load: Load) -> subprocess.Popen[str]:
    """Start the load in a process of its own; `result` waits for it."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.web.load_client", json.dumps(asdict(load))],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what the load printed at its end. Raises AssertionError where it failed."""
    said, _ = process.communicate()
    if process.returncode:
        raise AssertionError("The load generator failed")
    found: dict[str, Any] = json.loads(said)
    return found


async def _connection(load: Load, until: float, latencies: list[float], statuses: Counter[int]) -> None:
    head = (
        f"GET {load.path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {load.key}\r\n"
        "Accept: application/json\r\n\r\n"
    ).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", load.port, limit=2**20)
    while time.monotonic() < until:
        began = time.perf_counter()
        writer.write(head)
        status = await _answer(reader)
        latencies.append(1000 * (time.perf_counter() - began))
        statuses[status] += 1
        if load.pause:
            await asyncio.sleep(load.pause)
    writer.close()


async def _answer(reader: asyncio.StreamReader) -> int:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
    if length:
        await reader.readexactly(int(length))
    else:
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    return status


async def _run(load: Load) -> dict[str, Any]:
    latencies: list[float] = []
    statuses: Counter[int] = Counter()
    began = time.monotonic()
    until = began + load.seconds
    await asyncio.gather(*(_connection(load, until, latencies, statuses) for _ in range(load.connections)))
    seconds = time.monotonic() - began
    return {
        "requests": len(latencies),
        "seconds": seconds,
        "latencies_ms": sorted(latencies),
        "statuses": dict(statuses),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_run(Load(**json.loads(sys.argv[1]))))))  # noqa: T201 (its output)
