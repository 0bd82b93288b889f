"""`make api-fuzz`: schemathesis with all of its checks against a platform of its own, for some time.

Exits with 1 where a failure is not accepted. It starts the servers before the settings are read.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "platform"))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

from config.environment import var_dir
from tests.benchmarks.servers import own_servers

from . import accepted

FOLDER = Path(__file__).parent
# Schemathesis ends by itself after `--seconds`, and then only writes its report.
_REST_SECONDS = 300


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=120, help="how long to send requests")
    parser.add_argument("--seed", type=int, help="of an earlier run, to repeat it")
    parser.add_argument("--schemathesis", default=str(Path(sys.executable).with_name("schemathesis")))
    options = parser.parse_args()
    if shutil.which(options.schemathesis) is None:
        _say(f"{options.schemathesis} cannot be run: `make api-fuzz` installs schemathesis.")
        return 2
    with own_servers("postgres", "valkey", "openbao", "mosquitto", on_progress=_say) as stack:
        # They need the settings, which need the servers.
        from django.core.management import call_command

        from .site import start_site

        call_command("migrate_schemas", shared=True, verbosity=0)
        site = start_site(stack.var / "log")
        try:
            report = run(options.schemathesis, site.url, site.key, options.seconds, options.seed)
        finally:
            site.web.stop()
            kept = var_dir() / "api-fuzz"
            kept.mkdir(parents=True, exist_ok=True)
            shutil.copy(site.web.log, kept / "web.log")
    sys.stdout.write(f"{summary_of(report)}\n")
    return 0 if is_good(report) else 1


def run(program: str, url: str, key: str, seconds: int, seed: int | None = None) -> dict[str, Any]:
    """Run schemathesis against the tenant at the address; return its report, with the uses of the accepted kinds."""
    with tempfile.TemporaryDirectory(prefix="gwanje-api-fuzz-") as folder:
        report, uses = Path(folder) / "report.json", Path(folder) / "accepted"
        command = [
            *(program, "--config-file", str(FOLDER / "schemathesis.toml"), "run", f"{url}api/schema/"),
            *("--header", f"Authorization: Bearer {key}", "--wait-for-schema", "180", "--max-time", str(seconds)),
            *("--checks", "all", "--continue-on-failure", "--request-timeout", "30", "--output-truncate", "false"),
            *("--report", "json", "--report-json-path", str(report)),
            *(("--seed", str(seed)) if seed is not None else ()),
        ]
        env = {**os.environ, "SCHEMATHESIS_HOOKS": str(FOLDER / "hooks.py"), "GWANJE_ACCEPTED": str(uses)}
        done = subprocess.run(command, env=env, cwd=folder, timeout=seconds + _REST_SECONDS, check=False)
        found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
        counted = Counter(uses.read_text(encoding="utf-8").split()) if uses.exists() else Counter()
    return {**found, "exit_code": done.returncode, "accepted": dict(counted)}


def is_good(report: dict[str, Any]) -> bool:
    """Return whether the run was complete and found nothing that is not accepted."""
    return report["exit_code"] == 0 and not report.get("failures") and not report.get("errors")


def summary_of(report: dict[str, Any]) -> str:
    """Return the result of a run in one line."""
    cases, operations = report.get("test_cases", {}), report.get("operations", {})
    failures = sum(failure["count"] for failure in report.get("failures", ()))
    return (
        f"api-fuzz: {cases.get('generated', 0)} cases of {operations.get('tested', 0)} of"
        f" {operations.get('total', 0)} operations, {failures} failures, {len(report.get('errors', ()))} errors,"
        f" {sum(report['accepted'].values())} accepted of {len(accepted.load())} kinds, seed {report.get('seed', '–')}"
    )


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
