"""Node-RED with the flow that people draw: mqtt in → function → PostgreSQL, where it is installed.

It is spared the most expensive step: it verifies no signature. The function writes through the `pg` module (a pool
of ten connections), the message and its readings in one statement, so one transaction a message; the tables are
those of the old way without their foreign keys. Its mqtt node acknowledges by itself.
"""

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from tests.processes import free_port

from .bench import account
from .fleet import Fleet

_START_SECONDS = 60.0

_TABLES = """
DROP SCHEMA IF EXISTS node_red CASCADE;
CREATE SCHEMA node_red;
CREATE TABLE node_red.device (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, uuid uuid UNIQUE NOT NULL);
CREATE TABLE node_red.message (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, device_id bigint NOT NULL, timestamp timestamptz NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(), topic text NOT NULL, payload text NOT NULL
);
CREATE INDEX ON node_red.message (device_id, timestamp);
CREATE TABLE node_red.reading (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, device_id bigint NOT NULL, timestamp timestamptz NOT NULL,
    metric varchar(63) NOT NULL, value double precision NOT NULL, unit varchar(24) NOT NULL
);
CREATE INDEX ON node_red.reading (device_id, timestamp);
"""

_INSERT = """
WITH m AS (INSERT INTO node_red.message (device_id, timestamp, topic, payload) VALUES ($1, $2, $3, $4))
INSERT INTO node_red.reading (device_id, timestamp, metric, value, unit)
VALUES ($1, $2, 'temperature', $5, '°C'), ($1, $2, 'humidity', $6, '%'), ($1, $2, 'pressure', $7, 'hPa')
"""

_SETTINGS = """
const fs = require("fs");
const { Pool } = require(process.env.BENCH_PG);
const devices = JSON.parse(fs.readFileSync(process.env.BENCH_DEVICES, "utf8"));
module.exports = {
    uiHost: "127.0.0.1", uiPort: Number(process.env.BENCH_PORT), credentialSecret: false, flowFile: "flows.json",
    functionGlobalContext: { devices, pool: new Pool({ connectionString: process.env.DATABASE_URL, max: 10 }) },
    logging: { console: { level: "warn", metrics: false, audit: false } },
};
"""

_FUNCTION = f"""
const text = msg.payload.toString();
const message = JSON.parse(text[0] === "{{" ? text : Buffer.from(text.split(".")[1], "base64url").toString());
const device = global.get("devices")[msg.topic.split("/")[2]];
const value = message.value;
global.get("pool").query({{name: "insert", text: {json.dumps(_INSERT)},
    values: [device, message.timestamp, msg.topic, text, value.temp, value.humidity, value.pressure]}})
    .then(() => node.done(), (error) => node.error(error, msg));
"""


@dataclass(frozen=True, slots=True)
class Installation:
    """The program and the `pg` module beside it."""

    program: str
    pg: str


def find(program: str) -> Installation | str:
    """Node-RED at that path or on the PATH; in words, why it is not measured."""
    found = shutil.which(program or "node-red")
    if found is None:
        return f"{program or 'node-red'} is not on the PATH"
    home = Path(found).resolve().parent
    resolving = "process.stdout.write(require.resolve('pg', {paths: [process.argv[1]]}))"
    done = subprocess.run(["node", "-e", resolving, str(home)], capture_output=True, text=True)
    return Installation(found, done.stdout) if done.returncode == 0 else "the npm package pg is not installed beside it"


@contextmanager
def running(
    installation: Installation, fleet: Fleet, look: psycopg.Connection, directory: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """Node-RED, subscribed, with tables that know the fleet's devices."""
    home = directory / "node-red"
    home.mkdir(exist_ok=True)
    (home / "settings.js").write_text(_SETTINGS)
    _write_flow(home)
    (home / "devices.json").write_text(json.dumps(_make_tables(look, fleet)))
    port = free_port()
    environment = {
        "BENCH_PG": installation.pg,
        "BENCH_DEVICES": str(home / "devices.json"),
        "BENCH_PORT": str(port),
        "NODE_ENV": "production",
    }
    command = [installation.program, "--userDir", str(home)]
    with (home / "log").open("ab") as log:
        program = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
        try:
            _wait_serving(program, port, home / "log")
            yield program
        finally:
            program.terminate()
            try:
                program.wait(10)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()


def stored(look: psycopg.Connection) -> tuple[int, int]:
    """How many messages and readings are there."""
    row = look.execute(
        "SELECT (SELECT count(*) FROM node_red.message), (SELECT count(*) FROM node_red.reading)"
    ).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def _make_tables(look: psycopg.Connection, fleet: Fleet) -> dict[str, int]:
    look.execute(_TABLES)
    with look.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO node_red.device (uuid) VALUES (%s)",
            [(sender.uuid,) for sender in fleet.senders],
        )
    return {str(row[0]): row[1] for row in look.execute("SELECT uuid, id FROM node_red.device")}


def _write_flow(home: Path) -> None:
    url, (name, password) = urlsplit(os.environ["MQTT_URL"]), account("MQTT_URL")
    nodes: list[dict[str, Any]] = [
        {"id": "tab", "type": "tab", "label": "ingest"},
        {
            "id": "broker",
            "type": "mqtt-broker",
            "broker": url.hostname,
            "port": str(url.port),
            "clientid": "bench-node-red",
            "protocolVersion": "4",
            "keepalive": "60",
            "cleansession": True,
            "autoConnect": True,
        },
        {
            "id": "in",
            "type": "mqtt in",
            "z": "tab",
            "topic": "telemetry/#",
            "qos": "1",
            "datatype": "buffer",
            "broker": "broker",
            "inputs": 0,
            "wires": [["store"]],
        },
        {"id": "store", "type": "function", "z": "tab", "func": _FUNCTION, "outputs": 0, "wires": []},
    ]
    (home / "flows.json").write_text(json.dumps(nodes))
    (home / "flows_cred.json").write_text(json.dumps({"broker": {"user": name, "password": password}}))


def _wait_serving(program: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while program.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            time.sleep(2.0)  # its flows start, and subscribe
            return
    raise AssertionError(f"Node-RED did not start:\n{log.read_text()[-2000:]}")
