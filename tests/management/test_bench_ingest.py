"""The benchmark of ingest in its short form: it measures what it says, and its verification finds what is wrong."""

import json
import socket
from array import array
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from django.core.management import CommandError
from psycopg import sql

from management.embedded.stack import EmbeddedStack
from tenants.infrastructure.database import conninfo
from tests.benchmarks.ingest import goals, memory, packets, publisher
from tests.benchmarks.ingest.bench import Bench
from tests.benchmarks.ingest.fleet import Fleet, Sender, make_fleet
from tests.benchmarks.ingest.load import LoadMaker, encode
from tests.benchmarks.ingest.old_way import opened
from tests.benchmarks.ingest.options import Options
from tests.benchmarks.ingest.publisher import Publisher
from tests.benchmarks.ingest.run import run
from tests.benchmarks.ingest.tables import verify
from tests.benchmarks.parts.ingest import _options

SHORT = Options(
    only=("one", "old", "old_lean", "copy", "latency"),
    rounds=1,
    devices=12,
    messages=240,
    old_messages=60,
    rates=(200,),
    latency_seconds=1.0,
    samples=30,
)
PACKET = packets.publish(b"t", 1, b"x" * 200)
ENDS = array("Q", [len(PACKET) * (n + 1) for n in range(50)])

# {0} and {1}: the schemas of two tenants.
SPOILED: list[tuple[LiteralString, str]] = [
    ("UPDATE {0}.telemetry_reading SET value = value + 1", "readings of message"),
    ("UPDATE {0}.telemetry_message SET payload = payload || '\\x20'", "not stored as sent"),
    (
        "DELETE FROM {1}.telemetry_reading WHERE ctid IN (SELECT min(ctid) FROM {1}.telemetry_reading)",
        "a third of readings",
    ),
    ("DELETE FROM {0}.telemetry_message", "'messages': 0"),
    ("UPDATE {0}.telemetry_message SET topic = 'telemetry/x/y/z'", "'of its own devices': 0"),
    ("UPDATE {0}.telemetry_ingesttotals SET received = received + 1, duplicates = duplicates + 1", "'received'"),
]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def look(live_db: None) -> Iterator[psycopg.Connection]:
    with psycopg.connect(conninfo(), autocommit=True) as connection:
        yield connection


def test_a_short_run(live_db: None, stack: EmbeddedStack, tmp_path: Path) -> None:
    said: list[str] = []
    figures = run(SHORT, stack, tmp_path, said.append)
    (measured,) = figures["rounds"]
    assert measured.keys() == {"one", "old", "old_lean", "copy"}
    assert [measured[name]["messages"] for name in ("one", "old", "old_lean", "copy")] == [240, 60, 60, 240]
    for name in ("one", "old", "old_lean"):
        assert measured[name]["messages_per_s"] == pytest.approx(
            measured[name]["messages"] / measured[name]["seconds"], rel=0.05
        )
        assert measured[name]["cpu_s"].keys() == {"listener", "postgres", "mosquitto", "valkey", "publisher"}
        assert 0 < measured[name]["machine_busy"] <= 1
    (latency,) = figures["latency"]
    assert (latency["rate"], latency["samples"]) == (200, 50)
    assert 0 < latency["p50_ms"] <= latency["p99_ms"] <= latency["max_ms"]
    goals_by_name = {row["goal"]: row for row in figures["goals"]}
    ratio = goals_by_name["one listener / old way, messages/s"]
    assert ratio["value"] == pytest.approx(
        measured["one"]["messages_per_s"] / measured["old"]["messages_per_s"], abs=1e-3
    )
    assert ratio["met"] is (ratio["value"] >= 40)
    assert goals_by_name["two listeners / one, messages/s"]["met"] is None  # the run did not include it
    json.dumps(figures)


def test_the_verification_sees_what_is_wrong(look: psycopg.Connection, stack: EmbeddedStack, tmp_path: Path) -> None:
    fleet = make_fleet("bench-verified", devices=4, tenants=2, version_2_share=0.5)
    bench = Bench(SHORT, stack, tmp_path, look, LoadMaker(tmp_path))
    with bench.listeners(1) as programs:
        load = bench.loads.make(fleet, 20, samples=20)
        with bench.publisher(load) as program:
            program.write_line()
            program.result()
        bench.wait_stored(dict(fleet.sent), programs)
    verify(look, [fleet], load)
    first, second = fleet.schemas
    for spoil, what in SPOILED:
        with look.transaction(force_rollback=True):
            look.execute(sql.SQL(spoil).format(*map(sql.Identifier, fleet.schemas)))
            with pytest.raises(AssertionError, match=what):
                verify(look, [fleet], load)
    # Seen from the first tenant alone, the second's rows are in a wrong schema.
    alone = Fleet([*fleet.senders], [first], fleet.sent)
    with pytest.raises(AssertionError, match=f"{second}.telemetry_message holds messages"):
        verify(look, [alone], load)


@pytest.mark.parametrize("version", [1, 2])
def test_messages_are_signed_so_that_the_old_way_takes_them(version: int) -> None:
    sender = Sender("6d1f", 1, "serial", "secret", 1, version, "slug", "t_slug")
    payload = encode(sender, datetime.now(UTC), {"temp": 1.5, "humidity": 40.0, "pressure": 1000.0})
    assert opened(payload, b"secret")["value"]["temp"] == 1.5
    with pytest.raises(ValueError, match="wrong signature"):
        opened(payload, b"another")


def test_the_publisher_keeps_its_pace(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].sendall(b"\x40\x02\x00\x01" * 50)
    stamps = Publisher(pair[0], PACKET * 50, ENDS).pace(1000)
    assert pair[1].recv(1 << 20) == PACKET * 50
    assert len(stamps) == 50
    assert list(stamps) == sorted(stamps)
    assert stamps[-1] - stamps[0] >= 0.045


def test_the_publisher_keeps_its_window(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_PATIENCE_SECONDS", 0.2)
    pair[1].sendall(b"\x40\x02\x00\x01" * 5)
    with pytest.raises(TimeoutError, match="acknowledged 5 of 50"):
        Publisher(pair[0], PACKET * 50, ENDS).publish_at_full_rate(window=10)
    assert pair[1].recv(1 << 20) == PACKET * 15


def test_packets_are_those_of_the_protocol() -> None:
    assert packets.publish(b"a/b", 7, b"z" * 200)[:10] == b"\x32\xcf\x01\x00\x03a/b\x00\x07"
    assert packets.connect("id", "u", "p")[:12] == b"\x10\x14\x00\x04MQTT\x04\xc2\x00\x3c"


def test_ratios_compare_within_a_round() -> None:
    rounds: list[dict[str, Any]] = [
        {
            "one": {"messages_per_s": 100, "cpu_us_per_message": 1, "machine_busy": 0.5},
            "old": {"messages_per_s": 10, "cpu_us_per_message": 50},
        },
        {
            "one": {"messages_per_s": 900, "cpu_us_per_message": 1, "machine_busy": 0.8},
            "old": {"messages_per_s": 10, "cpu_us_per_message": 50},
        },
        {"one": {"messages_per_s": 500, "cpu_us_per_message": 1, "machine_busy": 0.9}, "old": None},
    ]
    found = goals.ratios(rounds)
    assert (found["one_to_old"], found["cpu_one_to_old"], found["two_to_one"]) == (50, 0.02, None)
    assert found["headroom_beside_one"] == 1.25
    assert memory.slope([(0, 10.0), (1, 12.0), (2, 14.0)]) == 2
    assert memory.slope([(0, 10.0)]) == 0


def test_what_cannot_be_measured_is_refused_in_words() -> None:
    given = dict.fromkeys(("rounds", "devices", "messages", "old_messages", "node_red_messages", "version_2"), 1)
    given |= dict.fromkeys(("tenants", "latency_seconds", "known_devices", "minutes", "soak_rate"), 1)
    with pytest.raises(CommandError, match="no part three; there are one, one_tls, two"):
        _options({**given, "only": "one,three", "rates": "1000", "node_red": ""})
    with pytest.raises(CommandError, match="--rates takes whole numbers"):
        _options({**given, "only": "one", "rates": "fast", "node_red": ""})
