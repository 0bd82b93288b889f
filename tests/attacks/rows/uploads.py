"""Files and bodies that cost more than their senders pay for: in the web server's memory, processor and files."""

import http.client
import io
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import openpyxl

from tenants.infrastructure import spreadsheets, xlsx_reader
from tenants.infrastructure.request_bodies import BoundedBodies
from tests.attacks.arena import Arena, cpu_seconds, memory_mb
from tests.attacks.attack import Measurement, attack, brake
from tests.factories import issue_key
from tests.processes import Process
from tests.raw_http import RawRequest
from tests.spreadsheet_files import text_cell, xlsx_file

_MEGABYTE = 2**20
# Of a web server that serves the first requests, beside what files cost it.
_WARM_MB = 60


# --- XLSX files -----------------------------------------------------------------------------------------------


@brake("reading XLSX in a process with limits")
def without_reader() -> None:
    """Read whole workbooks in the web server, as before."""

    def read(content: bytes) -> Iterator[tuple[int, list[str]]]:
        sheet = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True).worksheets[0]
        for number, line in enumerate(sheet.iter_rows(max_col=40, values_only=True), 1):
            yield number, ["" if cell is None else str(cell) for cell in line]

    spreadsheets._xlsx_lines = read


@brake("bounds of an XLSX file")
def without_bounds() -> None:
    """Read the sheet without its bounds, in the web server."""
    limits = dict.fromkeys(spreadsheets._xlsx_limits(), 2**40)

    def read(_script: Path, _arguments: list[str], content: bytes, **_limits: int) -> bytes:
        return json.dumps(xlsx_reader.read(content, limits)).encode()

    xlsx_reader._MOST_GROWTH = 2**40
    spreadsheets.run_limited = read  # type: ignore[assignment]


@attack("xlsx-styles", "files of 12 KB with 150,000 cell styles", brake="reading XLSX in a process with limits")
def xlsx_styles(arena: Arena) -> Measurement:
    """Upload workbooks of one device and many styles; a neighbour reads the API meanwhile."""
    styles = "<fonts><font/></fonts><fills><fill><patternFill/></fill></fills><borders><border/></borders>"
    styles += "<cellStyleXfs><xf/></cellStyleXfs><cellXfs>" + "<xf/>" * 150_000 + "</cellXfs>"
    return _upload_files(arena, _workbook(styles), arena.scaled(8))


@attack("xlsx-shared-string", "a file of 0.2 MB whose cells share one long string", brake="bounds of an XLSX file")
def xlsx_shared_string(arena: Arena) -> Measurement:
    """Upload sheets in which 40,000 cells are one string of 4,000 characters: 160 MB of text."""
    cells = [[f'<c r="A{row}" t="s"><v>0</v></c>', f'<c r="B{row}" t="s"><v>0</v></c>'] for row in range(2, 20_000)]
    content = xlsx_file([[text_cell("A1", "name"), text_cell("B1", "uuid")], *cells], strings=_LONG)
    return _upload_files(arena, content, arena.scaled(4))


_LONG = f"<si><t>{'x' * 4000}</t></si>"


def _workbook(styles: str) -> bytes:
    """Return a workbook that openpyxl reads too, with other styles."""
    import zipfile

    whole, changed = io.BytesIO(), io.BytesIO()
    book = openpyxl.Workbook()
    for line in (["name"], ["x"]):
        book.active.append(line)
    book.save(whole)
    namespace = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            text = f'<styleSheet xmlns="{namespace}">{styles}</styleSheet>'
            target.writestr(name, text if name == "xl/styles.xml" else source.read(name))
    return changed.getvalue()


def _upload_files(arena: Arena, content: bytes, count: int) -> Measurement:
    web, port = arena.serve()
    probe = arena.api_probe(port, interval=0.2)
    quiet = arena.quiet(probe)
    memory, used = memory_mb(web), cpu_seconds(web)
    key, statuses = issue_key(arena.attacker), []
    probe = arena.api_probe(port, interval=0.2)
    with probe:
        began = time.monotonic()
        for _ in range(count):
            statuses.append(_upload(port, arena.attacker.slug, key, content))
        time.sleep(max(0.0, arena.seconds - (time.monotonic() - began)))
    measurement = Measurement({**quiet.figures("quiet"), **probe.latencies.figures("neighbour")})
    measurement.figures |= {"files": count, "bytes_each": len(content), "refused": statuses.count(400)}
    # The requests of the neighbour need a part of it.
    measurement.bound("processor seconds for a file", round((cpu_seconds(web) - used) / count, 2), 0.9, timed=True)
    measurement.bound("growth of the web server in MB", round(memory_mb(web, peak=True) - memory), _WARM_MB)
    measurement.bound("requests of the neighbour without an answer", probe.latencies.lost, 0)
    return measurement


def _upload(port: int, slug: str, key: str, content: bytes) -> int:
    parts = [
        b'--b\r\nContent-Disposition: form-data; name="dry_run"\r\n\r\ntrue\r\n',
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.xlsx"\r\n\r\n' + content + b"\r\n--b--\r\n",
    ]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "multipart/form-data; boundary=b"}
    connection.request("POST", f"/t/{slug}/api/v1/devices/import/", b"".join(parts), headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


# --- bodies ---------------------------------------------------------------------------------------------------


@brake("bounds of bodies and heads")
def without_bounded_bodies() -> None:
    """Pass every body on, however long or slow."""
    from config import http_protocol

    async def unbounded(self: BoundedBodies, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)

    BoundedBodies.__call__ = unbounded  # type: ignore[method-assign]
    http_protocol.HEAD_SECONDS = 3600.0


@attack("large-bodies", "bodies of 20 MB without credentials", brake="bounds of bodies and heads", short=True)
def large_bodies(arena: Arena) -> Measurement:
    """Send long bodies to an endpoint that takes files, declared and chunked, and look at the web server's files."""
    web, port = arena.serve(env={"TMPDIR": str(arena.logs)})
    path = f"/t/{arena.attacker.slug}/api/v1/devices/import/"
    count, size = max(2, arena.scaled(8)), 20 * _MEGABYTE
    watch = _DiskWatch(web)
    with watch, ExitStack() as stack:
        requests = [stack.enter_context(RawRequest(port)) for _ in range(count)]
        for number, request in enumerate(requests):
            chunked = number % 2 == 1
            request.head(path, "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}")
            request.send((b"%x\r\n" % size if chunked else b"") + bytes(size - 1))  # the last byte never comes
        time.sleep(0.5)
    measurement = Measurement({"bodies": count, "bytes_each": size})
    measurement.bound("MB of bodies on the disk", round(watch.peak / _MEGABYTE, 1), 1)
    measurement.bound("refused reads of the neighbour", _refused_reads(arena, port), 0)
    return measurement


@attack("slow-senders", "heads and bodies that arrive byte by byte", brake="bounds of bodies and heads")
def slow_senders(arena: Arena) -> Measurement:
    """Open many connections that send a byte now and then, and count those that the server still holds."""
    web, port = arena.serve()
    count, key = arena.scaled(100), issue_key(arena.attacker)
    sockets = _sockets(web)
    with ExitStack() as stack:
        requests = [stack.enter_context(RawRequest(port)) for _ in range(count)]
        for number, request in enumerate(requests):
            if number % 2:
                request.head("/t/a/api/v1/devices/", f"Authorization: Bearer {key}", "Content-Length: 50000")
            else:
                request.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        deadline = time.monotonic() + 18
        while time.monotonic() < deadline:
            for request in requests:
                request.send(b"x")
            time.sleep(0.5)
        left = _sockets(web) - sockets
    measurement = Measurement({"connections": count})
    measurement.bound("connections that are held after 18 s", left, 2)
    measurement.bound("refused reads of the neighbour", _refused_reads(arena, port), 0)
    return measurement


def _refused_reads(arena: Arena, port: int) -> int:
    neighbour = arena.api_probe(port)
    statuses = [neighbour.get() for _ in range(3)]
    return len(statuses) - statuses.count(200)


class _DiskWatch:
    """The most bytes that a process had in files without a name, in which bodies are stored."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.peak = 0

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self.peak = max(self.peak, sum(_unnamed_files(self._process)))


def _unnamed_files(process: Process) -> Sequence[int]:
    sizes = []
    for entry in _descriptors(process):
        with suppress(OSError):
            if os.readlink(entry).endswith("(deleted)"):
                sizes.append(entry.stat().st_size)
    return sizes


def _sockets(process: Process) -> int:
    count = 0
    for entry in _descriptors(process):
        with suppress(OSError):
            count += os.readlink(entry).startswith("socket:")
    return count


def _descriptors(process: Process) -> list[Path]:
    with suppress(FileNotFoundError):
        return list(Path(f"/proc/{process.popen.pid}/fd").iterdir())
    return []
