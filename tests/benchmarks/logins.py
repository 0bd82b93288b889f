"""A fleet that comes back at once: the rate of logins, in batches, one by one, and with Vault for each."""

import asyncio
import itertools
import json
import os
import random
import secrets
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from django_tenants.utils import schema_context

from devices.api.emqx_auth import PATH
from devices.services.provisioning.registration import register_device
from tenants.services.lifecycle import create_tenant
from tests.processes import free_port

_CONNECTIONS = 128  # 16 of EMQX's pool, and 8 requests on each
_WRONG_SHARE = 0.1
_numbers = itertools.count()


@dataclass
class _Result:
    milliseconds: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)


def run(*, devices: int, tenants: int, logins: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Each way's rate and times; raises RuntimeError when one lets in who it should not, or the other way round."""
    say(f"Registering {devices} devices in {tenants} tenants")
    accounts = _register(devices, tenants)
    figures: dict[str, Any] = {"devices": devices, "tenants": tenants, "connections": _CONNECTIONS}
    for way, count in (("batched", logins), ("one_by_one", logins), ("vault", max(logins // 5, 100))):
        say(f"{count} logins, {way}")
        figures[way] = _measure(way, accounts, count)
    return figures


def _register(devices: int, tenants: int) -> list[tuple[str, str]]:
    accounts = []
    for number in range(tenants):
        tenant = create_tenant(slug=f"logins-{number}", name=f"Logins {number}")
        with schema_context(tenant.schema_name):
            for index in range(devices // tenants):
                issued = register_device(name=f"d{index}")[1]
                accounts.append((str(issued.uuid), issued.mqtt_password))
    return accounts


def _measure(way: str, accounts: Sequence[tuple[str, str]], count: int) -> dict[str, Any]:
    port = free_port()
    key = secrets.token_hex(32)
    command = [sys.executable, "-m", "uvicorn", "tests.benchmarks.login_app:application", "--port", str(port)]
    env = {**os.environ, "BENCH_WAY": way, "BENCH_KEY": key, "PYTHONPATH": "platform:.", "LOG_LEVEL": "ERROR"}
    server = subprocess.Popen([*command, "--log-level", "error", "--no-access-log"], env=env)
    try:
        _await(port)
        _drive(port, key, accounts, 2 * _CONNECTIONS)  # its connection to the database, and its caches
        began = time.perf_counter()
        result = _drive(port, key, accounts, count)
        seconds = time.perf_counter() - began
    finally:
        server.terminate()
        server.wait()
    wrong = {answer: n for answer, n in result.answers.items() if answer not in ("right", "no result")}
    if wrong:
        raise RuntimeError(f"Logins were authenticated wrongly, {way}: {wrong}")
    times = statistics.quantiles(result.milliseconds, n=100)
    return {
        "logins": count,
        "per_second": round(count / seconds),
        "p50_ms": round(times[49], 1),
        "p99_ms": round(times[98], 1),
        "no_verdict": result.answers["no result"],
    }


def _await(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError("The application did not start.")


def _drive(port: int, key: str, accounts: Sequence[tuple[str, str]], count: int) -> _Result:
    chosen = random.Random(1)
    requests = iter([_request(key, *chosen.choice(accounts), chosen.random() >= _WRONG_SHARE) for _ in range(count)])
    result = _Result()
    asyncio.run(_all(port, requests, result))
    return result


async def _all(port: int, requests: Any, result: _Result) -> None:
    await asyncio.gather(*(_one(port, requests, result) for _ in range(_CONNECTIONS)))


async def _one(port: int, requests: Any, result: _Result) -> None:
    """One connection, which asks again as soon as it has an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for right, request in requests:
        began = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        body = await reader.readexactly(length)
        result.milliseconds.append(1000 * (time.perf_counter() - began))
        status = int(head.split(b" ", 2)[1])
        let_in = status == 200 and json.loads(body)["result"] == "allow"
        authenticated = "right" if let_in == right else "let in" if let_in else "refused"
        result.answers["no result" if status == 503 else authenticated] += 1
    writer.close()


def _request(key: str, name: str, password: str, right: bool) -> tuple[bool, bytes]:
    shown = password if right else f"wrong {next(_numbers)}"
    body = json.dumps({"clientid": name, "username": name, "password": shown, "peerhost": "192.0.2.1"}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\nx-broker-key: {key}\r\ncontent-length: {len(body)}\r\n\r\n"
    return right, head.encode() + body
